//! A network that behaves badly when it is told to: a TCP relay between a client and any server.
//!
//! It knows nothing of what passes through it. The program `tcp-proxy` is the same for tests in other languages.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use celeriac_broker::sync::lock;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The most bytes that are read at once.
const CHUNK: usize = 64 * 1024;

/// How many chunks may be on their way in one direction.
const CHUNKS_ON_THEIR_WAY: usize = 256;

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1024;

/// How the network behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Everything passes at once.
    #[default]
    Normal,
    /// Nobody listens: new connections are refused. Those that are open stay.
    Refuse,
    /// Everything seems to be connected and nothing passes, as when a cable is pulled. What was written passes when the
    /// mode ends; so do connections that were opened meanwhile.
    Silence,
    /// Everything arrives later by so much.
    Delay {
        /// What the client sends.
        to_server: Duration,
        /// What the server sends.
        to_client: Duration,
    },
    /// What the client sends arrives no faster than so many bytes a second.
    Narrow(u32),
    /// Every byte is sent by itself.
    Dribble,
}

#[derive(Clone, Copy, Debug, Default)]
struct Weather {
    mode: Mode,
    /// Connections with a smaller number hear nothing any more, whatever the mode.
    stranded: u64,
}

struct Open {
    cut: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Connections {
    last: u64,
    open: HashMap<u64, Open>,
}

struct Shared {
    target: SocketAddr,
    weather: watch::Sender<Weather>,
    connections: Mutex<Connections>,
    /// Whether somebody listens.
    listening: watch::Sender<bool>,
}

impl Shared {
    fn connections(&self) -> MutexGuard<'_, Connections> {
        lock(&self.connections)
    }
}

/// A relay on a free port of 127.0.0.1. It ends when it is dropped, with all its connections.
pub struct TcpProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl TcpProxy {
    /// Starts one that leads to `target`. Nothing is connected before somebody comes.
    ///
    /// # Errors
    /// When there is no free port.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(target: SocketAddr) -> io::Result<Self> {
        Self::start_with(target, |_| Ok(()))
    }

    /// [`start`](Self::start) with buffers of some ten thousand bytes in all between the client and whatever stops: a system
    /// would have megabytes.
    ///
    /// # Errors
    /// When there is no free port, or the system has no such settings.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start_tight(target: SocketAddr) -> io::Result<Self> {
        Self::start_with(target, |socket| {
            socket.set_recv_buffer_size(4096)?;
            // What a client buffers on its side depends on the size of a packet.
            socket2::SockRef::from(socket).set_tcp_mss(536)
        })
    }

    fn start_with(target: SocketAddr, prepare: Prepare) -> io::Result<Self> {
        // Keeps the port ours while nobody listens. It never listens itself.
        let reservation = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let address = reservation.local_addr()?;
        let shared = Arc::new(Shared {
            target,
            weather: watch::Sender::default(),
            connections: Mutex::default(),
            listening: watch::Sender::default(),
        });
        let listener = listen(address, prepare)?;
        shared.listening.send_replace(true);
        let accepting = tokio::spawn(accept(Arc::clone(&shared), reservation, listener, prepare));
        Ok(Self { address, shared, accepting })
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.shared.connections().open.len()
    }

    /// Changes the weather for connections that are open and those to come.
    ///
    /// # Errors
    /// When it cannot listen again.
    pub async fn set(&self, mode: Mode) -> io::Result<()> {
        self.shared.weather.send_modify(|weather| weather.mode = mode);
        let wanted = mode != Mode::Refuse;
        let mut listening = self.shared.listening.subscribe();
        let changed = listening.wait_for(|is_listening| *is_listening == wanted).await;
        changed.map(drop).map_err(|_| io::Error::other("the proxy has ended"))
    }

    /// Ends every connection with a reset, on both sides; says how many there were. New ones are welcome.
    pub async fn cut(&self) -> usize {
        let open: Vec<Open> = self.shared.connections().open.drain().map(|(_, open)| open).collect();
        let count = open.len();
        for Open { cut, task } in open {
            let _ = cut.send(());
            let _ = task.await;
        }
        count
    }

    /// From here on nothing passes on the connections that are open, and nobody is told; new ones are as usual. So it is
    /// when an address translator forgets them, or a machine is replaced by another.
    pub fn strand(&self) -> usize {
        let connections = self.shared.connections();
        self.shared.weather.send_modify(|weather| weather.stranded = connections.last + 1);
        connections.open.len()
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.accepting.abort();
        for (_, open) in self.shared.connections().open.drain() {
            open.task.abort();
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// What is set on a socket before it listens.
type Prepare = fn(&TcpSocket) -> io::Result<()>;

fn listen(address: SocketAddr, prepare: Prepare) -> io::Result<TcpListener> {
    let socket = bind(address)?;
    prepare(&socket)?;
    socket.listen(BACKLOG)
}

/// Accepts connections, except while they are refused.
async fn accept(shared: Arc<Shared>, reservation: TcpSocket, first: TcpListener, prepare: Prepare) {
    let Ok(address) = reservation.local_addr() else { return };
    let mut weather = shared.weather.subscribe();
    let mut listener = Some(first);
    loop {
        let refuses = weather.borrow_and_update().mode == Mode::Refuse;
        if refuses {
            listener = None;
        } else if listener.is_none() {
            match listen(address, prepare) {
                Ok(opened) => listener = Some(opened),
                Err(error) => {
                    eprintln!("the proxy cannot listen on {address} again: {error}");
                    return;
                }
            }
        }
        shared.listening.send_replace(!refuses);
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = accepted => if let Ok((client, _)) = accepted { welcome(&shared, client) },
            changed = weather.changed() => if changed.is_err() { return },
        }
    }
}

fn welcome(shared: &Arc<Shared>, client: TcpStream) {
    let (cut, is_cut) = oneshot::channel();
    let mut connections = shared.connections();
    connections.last += 1;
    let number = connections.last;
    let carrying = Arc::clone(shared);
    let task = tokio::spawn(async move {
        carry(&carrying, number, client, is_cut).await;
        carrying.connections().open.remove(&number);
    });
    connections.open.insert(number, Open { cut, task });
}

/// One connection, to its end.
async fn carry(shared: &Shared, number: u64, mut client: TcpStream, mut is_cut: oneshot::Receiver<()>) {
    let sky = Sky { number, weather: shared.weather.subscribe() };
    let connecting = async {
        sky.clone().clears().await;
        TcpStream::connect(shared.target).await
    };
    let server = tokio::select! {
        server = connecting => server,
        _ = &mut is_cut => Err(io::ErrorKind::ConnectionReset.into()),
    };
    let Ok(mut server) = server else {
        let _ = client.set_zero_linger();
        return;
    };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let in_order = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        // When the last byte is through where the way is narrow.
        let mut free = Instant::now();
        let there = relay(from_client, to_server, sky.clone(), move |mode, count| match mode {
            Mode::Delay { to_server, .. } => Instant::now() + to_server,
            Mode::Narrow(rate) => {
                free = free.max(Instant::now()) + Duration::from_secs(count as u64) / rate;
                free
            }
            _ => Instant::now(),
        });
        let back = relay(from_server, to_client, sky, |mode, _| match mode {
            Mode::Delay { to_client, .. } => Instant::now() + to_client,
            _ => Instant::now(),
        });
        tokio::select! {
            outcome = async { tokio::try_join!(there, back) } => outcome.is_ok(),
            _ = &mut is_cut => false,
        }
    };
    if !in_order {
        // Closing then resets.
        let _ = client.set_zero_linger();
        let _ = server.set_zero_linger();
    }
}

/// The weather as one connection has it.
#[derive(Clone)]
struct Sky {
    number: u64,
    weather: watch::Receiver<Weather>,
}

impl Sky {
    /// Waits until something can pass; gives the mode.
    async fn clears(&mut self) -> Mode {
        let number = self.number;
        let clear = |weather: &Weather| weather.mode != Mode::Silence && number >= weather.stranded;
        let mode = self.weather.wait_for(clear).await.map(|weather| weather.mode);
        match mode {
            Ok(mode) => mode,
            // The proxy is gone, and this with it.
            Err(_) => std::future::pending().await,
        }
    }
}

/// One direction of one connection, to its end of file.
async fn relay(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    sky: Sky,
    mut due: impl FnMut(Mode, usize) -> Instant,
) -> io::Result<()> {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS_ON_THEIR_WAY);
    let mut reading_sky = sky.clone();
    let reading = async move {
        let mut buffer = vec![0; CHUNK];
        loop {
            reading_sky.clears().await;
            let count = from.read(&mut buffer).await?;
            if count == 0 {
                return Ok(());
            }
            let due = due(reading_sky.clears().await, count);
            // The writer ends first only with an error, which is the outcome.
            let _ = sender.send((due, buffer[..count].to_vec())).await;
        }
    };
    let mut writing_sky = sky;
    let writing = async move {
        while let Some((due, chunk)) = receiver.recv().await {
            tokio::time::sleep_until(due).await;
            let mut rest = &chunk[..];
            while !rest.is_empty() {
                if writing_sky.clears().await == Mode::Dribble {
                    to.write_all(&rest[..1]).await?;
                    rest = &rest[1..];
                    tokio::task::yield_now().await;
                } else {
                    to.write_all(rest).await?;
                    rest = &[];
                }
            }
        }
        writing_sky.clears().await;
        to.shutdown().await
    };
    tokio::try_join!(reading, writing).map(drop)
}
