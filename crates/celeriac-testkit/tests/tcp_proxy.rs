//! The proxy itself: an echo server behind it, and what each weather does to a client.

// What is not as expected is a failed test.
#![allow(clippy::unwrap_used)]

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use celeriac_testkit::tcp_proxy::{Mode, TcpProxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};

const DEADLINE: Duration = Duration::from_secs(20);

/// How long nothing must happen where nothing may.
const QUIET: Duration = Duration::from_millis(200);

/// A server that sends back what it is sent.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
                let _ = writer.shutdown().await;
            });
        }
    });
    address
}

async fn proxy() -> TcpProxy {
    TcpProxy::start(echo().await).unwrap()
}

async fn connect(proxy: &TcpProxy) -> TcpStream {
    timeout(DEADLINE, TcpStream::connect(proxy.address())).await.unwrap().unwrap()
}

/// Says something and waits for it to come back.
async fn converse(stream: &mut TcpStream, words: &[u8]) {
    stream.write_all(words).await.unwrap();
    hear(stream, words).await;
}

async fn hear(stream: &mut TcpStream, words: &[u8]) {
    let mut heard = vec![0; words.len()];
    timeout(DEADLINE, stream.read_exact(&mut heard)).await.unwrap().unwrap();
    assert_eq!(heard, words);
}

async fn is_silent(stream: &mut TcpStream) -> bool {
    timeout(QUIET, stream.read(&mut [0; 1])).await.is_err()
}

/// Different bytes everywhere, more than one chunk.
fn bulk() -> Vec<u8> {
    (0..300_000_u32).flat_map(u32::to_be_bytes).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_passes_unchanged_and_the_end_too() {
    let proxy = proxy().await;
    let mut stream = connect(&proxy).await;
    let sent = bulk();
    let (mut reader, mut writer) = stream.split();
    let saying = async {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let mut heard = Vec::new();
    let ((), count) = tokio::join!(saying, timeout(DEADLINE, reader.read_to_end(&mut heard)));
    assert_eq!(count.unwrap().unwrap(), sent.len());
    assert!(heard == sent);
    let gone = async {
        while proxy.connections() > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, gone).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_resets_what_is_open_and_nothing_else() {
    let proxy = proxy().await;
    let mut streams = [connect(&proxy).await, connect(&proxy).await];
    for stream in &mut streams {
        converse(stream, b"before").await;
    }
    assert_eq!(proxy.cut().await, 2);
    assert_eq!(proxy.connections(), 0);
    for stream in &mut streams {
        let outcome = timeout(DEADLINE, stream.read(&mut [0; 1])).await.unwrap();
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    converse(&mut connect(&proxy).await, b"after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_refuses_what_is_open_goes_on_and_then_it_listens_on_the_same_port() {
    let proxy = proxy().await;
    let mut open = connect(&proxy).await;
    converse(&mut open, b"before").await;
    for _ in 0..3 {
        proxy.set(Mode::Refuse).await.unwrap();
        let refused = TcpStream::connect(proxy.address()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        converse(&mut open, b"meanwhile").await;
        proxy.set(Mode::Normal).await.unwrap();
        converse(&mut connect(&proxy).await, b"after").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_silence_nothing_passes_and_then_everything_does() {
    let proxy = proxy().await;
    let mut open = connect(&proxy).await;
    converse(&mut open, b"before").await;
    proxy.set(Mode::Silence).await.unwrap();
    let mut opened = connect(&proxy).await;
    for stream in [&mut open, &mut opened] {
        stream.write_all(b"held").await.unwrap();
    }
    for stream in [&mut open, &mut opened] {
        assert!(is_silent(stream).await);
    }
    proxy.set(Mode::Normal).await.unwrap();
    for stream in [&mut open, &mut opened] {
        hear(stream, b"held").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_connection_can_be_cut() {
    let proxy = proxy().await;
    proxy.set(Mode::Silence).await.unwrap();
    let mut stream = connect(&proxy).await;
    let seen = async {
        while proxy.connections() == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, seen).await.unwrap();
    assert_eq!(proxy.cut().await, 1);
    let outcome = timeout(DEADLINE, stream.read(&mut [0; 1])).await.unwrap();
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranded_connection_is_silent_for_ever_and_a_new_one_is_not() {
    let proxy = proxy().await;
    let mut old = connect(&proxy).await;
    converse(&mut old, b"before").await;
    assert_eq!(proxy.strand(), 1);
    let mut new = connect(&proxy).await;
    converse(&mut new, b"new").await;
    old.write_all(b"lost").await.unwrap();
    proxy.set(Mode::Silence).await.unwrap();
    proxy.set(Mode::Normal).await.unwrap();
    converse(&mut new, b"still").await;
    assert!(is_silent(&mut old).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delay_is_added_in_each_direction_and_keeps_the_order() {
    let proxy = proxy().await;
    let mut stream = connect(&proxy).await;
    let (to_server, to_client) = (Duration::from_millis(120), Duration::from_millis(80));
    proxy.set(Mode::Delay { to_server, to_client }).await.unwrap();
    let start = Instant::now();
    converse(&mut stream, b"slow").await;
    assert!(start.elapsed() >= to_server + to_client);
    let sent = bulk();
    let (mut reader, mut writer) = stream.split();
    let mut heard = vec![0; sent.len()];
    let (said, read) =
        tokio::join!(writer.write_all(&sent), timeout(DEADLINE, reader.read_exact(&mut heard)));
    said.unwrap();
    read.unwrap().unwrap();
    assert!(heard == sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn dribbling_sends_byte_by_byte_and_loses_none() {
    let proxy = proxy().await;
    let mut stream = connect(&proxy).await;
    proxy.set(Mode::Dribble).await.unwrap();
    let sent: Vec<u8> = (0..=255).cycle().take(20_000).collect();
    stream.write_all(&sent).await.unwrap();
    let (mut heard, mut reads) = (Vec::new(), 0);
    let mut buffer = vec![0; sent.len()];
    while heard.len() < sent.len() {
        let count = timeout(DEADLINE, stream.read(&mut buffer)).await.unwrap().unwrap();
        assert!(count > 0);
        heard.extend_from_slice(&buffer[..count]);
        reads += 1;
    }
    assert!(heard == sent);
    assert!(reads > 20, "{reads} reads");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_costs_the_connection() {
    // Bound, so that nobody else gets the port, and not listening.
    let away = TcpSocket::new_v4().unwrap();
    away.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let proxy = TcpProxy::start(away.local_addr().unwrap()).unwrap();
    // The reset may come before the client knows that it is connected.
    let using = async { TcpStream::connect(proxy.address()).await?.read(&mut [0; 1]).await };
    let outcome = timeout(DEADLINE, using).await.unwrap();
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::ConnectionReset);
}
