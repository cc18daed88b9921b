//! A connection that the thread of a sender writes to itself: one LPUSH at a time, and its answer.
//!
//! redis-rs logs in, packs the commands and reads the answers. Its own connections are driven by a task, which the thread of
//! the sender would have to wake first.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net;
#[cfg(unix)]
use std::os::fd::{AsFd, IntoRawFd};
#[cfg(unix)]
use std::os::unix::net as unix_net;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use celeriac_error::{Error, Result};
use redis::aio::MultiplexedConnection;
use redis::io::tcp::socket2::SockRef;
use redis::{AsyncConnectionConfig, ConnectionAddr, RedisError, Value, cmd, parse_redis_value};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::sync::Notify;

use super::core::lock;
use super::link::{explain, limited};
use super::publish::prepare;
use super::routing::{Destination, Router};
use super::settings::Settings;
use crate::transport::{Direct, Publication, Watch};

/// The longest message that goes this way: what is longer might not fit into the socket's buffer.
const LONGEST: usize = 8 * 1024;

/// The longest answer: that to LPUSH is a number, or an error.
const LONGEST_ANSWER: usize = 64 * 1024;

/// How long what did not fit into the socket's buffer waits.
const STUCK_FOR: Duration = Duration::from_millis(1);

/// The connection, when there is one.
pub(super) struct DirectConnection {
    settings: Arc<Settings>,
    router: Arc<Router>,
    wire: Mutex<Option<Arc<Wire>>>,
    /// How many there were.
    connections: AtomicU32,
    /// Whether the sockets cannot be read elsewhere.
    is_unwatchable: AtomicBool,
}

/// An open connection.
struct Wire {
    number: u32,
    /// Whether somebody else reads the answers.
    is_watched: AtomicBool,
    socket: Socket,
    reader: Mutex<Reader>,
    /// What did not fit into the socket's buffer.
    unsent: Mutex<Vec<u8>>,
    /// There is something of that kind.
    stuck: Notify,
}

#[derive(Default)]
struct Reader {
    /// There while the runtime waits for answers: what it knows of wakes its thread, whether anybody reads or not.
    stream: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// What was read of the next answer.
    answer: Vec<u8>,
}

/// Does not block.
enum Socket {
    Tcp(net::TcpStream),
    #[cfg(unix)]
    Unix(unix_net::UnixStream),
}

impl DirectConnection {
    /// `None` where the connection is encrypted: then redis-rs's own does everything.
    pub(super) fn new(settings: &Arc<Settings>, router: &Arc<Router>) -> Option<Arc<Self>> {
        match settings.client.get_connection_info().addr() {
            ConnectionAddr::Tcp(..) => {}
            #[cfg(unix)]
            ConnectionAddr::Unix(_) => {}
            _ => return None,
        }
        let (settings, router) = (Arc::clone(settings), Arc::clone(router));
        Some(Arc::new(Self {
            settings,
            router,
            wire: Mutex::default(),
            connections: AtomicU32::new(0),
            is_unwatchable: AtomicBool::new(false),
        }))
    }

    fn wire(&self) -> Option<Arc<Wire>> {
        lock(&self.wire).clone()
    }

    async fn connect(&self) -> redis::RedisResult<Arc<Wire>> {
        let info = self.settings.client.get_connection_info();
        let socket = match info.addr() {
            ConnectionAddr::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                let wanted = info.tcp_settings();
                stream.set_nodelay(wanted.nodelay())?;
                let socket = SockRef::from(&stream);
                if let Some(keepalive) = wanted.keepalive() {
                    socket.set_tcp_keepalive(keepalive)?;
                }
                #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
                socket.set_tcp_user_timeout(wanted.user_timeout())?;
                Socket::Tcp(stream.into_std()?)
            }
            #[cfg(unix)]
            ConnectionAddr::Unix(path) => Socket::Unix(UnixStream::connect(path).await?.into_std()?),
            _ => return Err(io::Error::from(io::ErrorKind::Unsupported).into()),
        };
        let wire = Arc::new(Wire {
            number: self.connections.fetch_add(1, Ordering::Relaxed),
            is_watched: AtomicBool::new(false),
            socket,
            reader: Mutex::default(),
            unsent: Mutex::default(),
            stuck: Notify::new(),
        });
        // redis-rs logs in over a stream of its own, which ends here.
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let login = Login(Arc::clone(&wire));
        drop(MultiplexedConnection::new_with_config(info.redis_settings(), login, config).await?);
        Ok(wire)
    }
}

#[async_trait]
impl Direct for DirectConnection {
    fn is_open(&self) -> bool {
        lock(&self.wire).is_some()
    }

    async fn open(&self) -> Result<()> {
        let opened = limited(self.settings.connect_timeout, self.connect()).await;
        let wire = opened.map_err(|error| explain(&self.settings.url, &error))?;
        *lock(&self.wire) = Some(wire);
        Ok(())
    }

    fn encode(&self, publication: &Publication) -> Option<Vec<u8>> {
        if !self.is_open() || publication.message.body.len() > LONGEST || !self.router.knows(publication) {
            return None;
        }
        // What is wrong with it, the other way will tell.
        let prepared = prepare(&self.router, publication).ok()?;
        let [Destination::Queue(queue)] = &prepared.destinations[..] else { return None };
        if prepared.payload.len() > LONGEST || self.router.expires(queue).is_some() {
            return None;
        }
        let list = self.settings.keys.list(queue, prepared.priority);
        Some(cmd("LPUSH").arg(list).arg(&prepared.payload[..]).get_packed_command())
    }

    fn write(&self, bytes: &[u8]) -> bool {
        let Some(wire) = self.wire() else { return false };
        match wire.socket.try_write(bytes) {
            Ok(written) if written == bytes.len() => true,
            Ok(written) if written > 0 => {
                lock(&wire.unsent).extend_from_slice(&bytes[written..]);
                wire.stuck.notify_one();
                true
            }
            _ => false,
        }
    }

    async fn outcome(&self) -> Result<()> {
        let Some(wire) = self.wire() else { return Err(Error::Closed("connection to the broker")) };
        let answer = wire.answer().await;
        self.meaning(answer)
    }

    fn watch(&self) -> Option<Watch> {
        if self.is_unwatchable.load(Ordering::Relaxed) {
            return None;
        }
        let wire = self.wire().filter(|wire| !wire.is_watched.load(Ordering::Relaxed))?;
        let descriptor = wire.socket.descriptor()?;
        wire.is_watched.store(true, Ordering::Relaxed);
        Some(Watch { descriptor, connection: wire.number })
    }

    fn unwatch(&self) {
        self.is_unwatchable.store(true, Ordering::Relaxed);
        if let Some(wire) = self.wire() {
            wire.is_watched.store(false, Ordering::Relaxed);
        }
    }

    fn is_watched(&self) -> bool {
        lock(&self.wire).as_ref().is_some_and(|wire| wire.is_watched.load(Ordering::Relaxed))
    }

    fn leave_to_watcher(&self) {
        if let Some(wire) = self.wire() {
            lock(&wire.reader).stream = None;
        }
    }

    fn feed(&self, connection: u32, bytes: &[u8]) -> Option<Result<()>> {
        let wire = self.wire().filter(|wire| wire.number == connection)?;
        let answer = if bytes.is_empty() {
            Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
        } else {
            lock(&wire.reader).feed(bytes)?
        };
        Some(self.meaning(answer))
    }

    fn read(&self) -> Option<Result<()>> {
        let wire = self.wire().filter(|wire| wire.is_watched.load(Ordering::Relaxed))?;
        let mut reader = lock(&wire.reader);
        let mut room = [0; 512];
        let answer = match wire.socket.try_read(&mut room) {
            Ok(0) => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(length) => reader.feed(&room[..length])?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Err(error) => Err(error.into()),
        };
        drop(reader);
        Some(self.meaning(answer))
    }

    fn close(&self) {
        *lock(&self.wire) = None;
    }
}

impl DirectConnection {
    fn meaning(&self, answer: redis::RedisResult<Value>) -> Result<()> {
        match answer {
            Ok(Value::Int(_)) => Ok(()),
            Ok(Value::ServerError(error)) => Err(explain(&self.settings.url, &RedisError::from(error))),
            Ok(other) => {
                self.close();
                let reason = format!("it answered LPUSH with {other:?}");
                Err(Error::BrokerUnavailable { url: self.settings.url.clone(), reason })
            }
            Err(error) => {
                self.close();
                Err(explain(&self.settings.url, &error))
            }
        }
    }
}

impl Wire {
    /// The next answer.
    async fn answer(&self) -> redis::RedisResult<Value> {
        loop {
            let is_stuck = !lock(&self.unsent).is_empty();
            tokio::select! {
                biased;
                answer = poll_fn(|context| self.poll_answer(context)) => return answer,
                () = tokio::time::sleep(STUCK_FOR), if is_stuck => self.write_rest()?,
                () = self.stuck.notified() => {}
            }
        }
    }

    fn poll_answer(&self, context: &mut Context<'_>) -> Poll<redis::RedisResult<Value>> {
        let mut reader = lock(&self.reader);
        loop {
            let stream = match &mut reader.stream {
                Some(stream) => stream,
                none => none.insert(self.socket.registered()?),
            };
            let mut room = [MaybeUninit::uninit(); 512];
            let mut buffer = ReadBuf::uninit(&mut room);
            ready!(Pin::new(stream).poll_read(context, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()));
            }
            if let Some(answer) = reader.feed(buffer.filled()) {
                return Poll::Ready(answer);
            }
        }
    }

    fn write_rest(&self) -> io::Result<()> {
        let mut unsent = lock(&self.unsent);
        while !unsent.is_empty() {
            match self.socket.try_write(&unsent) {
                Ok(written) => drop(unsent.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Reader {
    /// The answer, when these bytes are its end. Every answer to LPUSH is one line.
    fn feed(&mut self, bytes: &[u8]) -> Option<redis::RedisResult<Value>> {
        self.answer.extend_from_slice(bytes);
        if self.answer.ends_with(b"\n") {
            let value = parse_redis_value(&self.answer);
            self.answer.clear();
            return Some(value);
        }
        (self.answer.len() > LONGEST_ANSWER)
            .then(|| Err(io::Error::new(io::ErrorKind::InvalidData, "an answer without an end").into()))
    }
}

impl Socket {
    /// A descriptor more of it.
    #[cfg(unix)]
    fn descriptor(&self) -> Option<i32> {
        let socket = match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        };
        Some(socket.try_clone_to_owned().ok()?.into_raw_fd())
    }

    #[cfg(not(unix))]
    fn descriptor(&self) -> Option<i32> {
        None
    }

    /// The same socket, known to the runtime.
    fn registered(&self) -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
        Ok(match self {
            Self::Tcp(stream) => Box::new(TcpStream::from_std(stream.try_clone()?)?),
            #[cfg(unix)]
            Self::Unix(stream) => Box::new(UnixStream::from_std(stream.try_clone()?)?),
        })
    }

    fn try_read(&self, room: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => io::Read::read(&mut &*stream, room),
            #[cfg(unix)]
            Self::Unix(stream) => io::Read::read(&mut &*stream, room),
        }
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => io::Write::write(&mut &*stream, bytes),
            #[cfg(unix)]
            Self::Unix(stream) => io::Write::write(&mut &*stream, bytes),
        }
    }
}

impl Drop for Socket {
    /// Whoever watches it has a descriptor of it too.
    fn drop(&mut self) {
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(net::Shutdown::Both),
            #[cfg(unix)]
            Self::Unix(stream) => stream.shutdown(net::Shutdown::Both),
        };
    }
}

/// Lends the connection to redis-rs.
struct Login(Arc<Wire>);

impl AsyncRead for Login {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut reader = lock(&self.0.reader);
        let stream = match &mut reader.stream {
            Some(stream) => stream,
            none => none.insert(self.0.socket.registered()?),
        };
        Pin::new(stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Login {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.0.socket.try_write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // A login is shorter than the socket's buffer: not to be written before the connection is ready is all.
                context.waker().wake_by_ref();
                Poll::Pending
            }
            outcome => Poll::Ready(outcome),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// It goes on without redis-rs.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
