//! `tcp-proxy HOST:PORT`: a [`TcpProxy`] for tests that are not written in Rust.
//!
//! Its first line is the port on 127.0.0.1 that it listens on. Then it takes a command a line on its standard input, and
//! answers each with a line once it is done: `ok`, `ok NUMBER` or `error …`. The commands are `normal`, `refuse`,
//! `silence`, `delay MILLISECONDS [MILLISECONDS]` (to the server, and back; one number is both), `dribble`, `cut`,
//! `strand` and `connections`. It ends with its standard input.

use std::io::{self, BufRead, Write};
use std::time::Duration;

use celeriac_testkit::tcp_proxy::{Mode, TcpProxy};

fn main() -> io::Result<()> {
    let target = std::env::args().nth(1).unwrap_or_default();
    let target = target.parse().map_err(|_| {
        io::Error::new(io::ErrorKind::InvalidInput, "name the server: tcp-proxy 127.0.0.1:6379")
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let proxy = runtime.block_on(async { TcpProxy::start(target) })?;
    say(&proxy.address().port().to_string())?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let answer = match runtime.block_on(obey(&proxy, &line)) {
            Ok(Some(number)) => format!("ok {number}"),
            Ok(None) => "ok".to_owned(),
            Err(error) => format!("error {error}"),
        };
        say(&answer)?;
    }
    Ok(())
}

fn say(line: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()
}

async fn obey(proxy: &TcpProxy, line: &str) -> io::Result<Option<usize>> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let mode = match words[..] {
        ["cut"] => return Ok(Some(proxy.cut().await)),
        ["strand"] => return Ok(Some(proxy.strand())),
        ["connections"] => return Ok(Some(proxy.connections())),
        ["normal"] => Mode::Normal,
        ["refuse"] => Mode::Refuse,
        ["silence"] => Mode::Silence,
        ["dribble"] => Mode::Dribble,
        ["delay", both] => Mode::Delay { to_server: milliseconds(both)?, to_client: milliseconds(both)? },
        ["delay", there, back] => {
            Mode::Delay { to_server: milliseconds(there)?, to_client: milliseconds(back)? }
        }
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("no such command: {line}"))),
    };
    proxy.set(mode).await.map(|()| None)
}

fn milliseconds(text: &str) -> io::Result<Duration> {
    text.parse().map(Duration::from_millis).map_err(|_| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("no number of milliseconds: {text}"))
    })
}
