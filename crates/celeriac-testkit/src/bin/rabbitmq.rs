//! `rabbitmq [--management] [--vhost NAME]… [--tls CA CERTIFICATE KEY [--client-certificates]] [--set LINE]…`: a
//! [`RabbitMqServer`] for tests and benchmarks that are not written in Rust.
//!
//! Its first line is a JSON object once the broker answers: `port`, `processId`, and `tlsPort` and `managementPort` where there
//! are such. Then it takes a command a line on its standard input, and answers each with a line of JSON once it is done:
//! `{"ok": true, …}` or `{"error": "…"}`. The commands are `kill` (as `kill -9` does), `start` (again, on the same ports and
//! data; says `processId`), and `ctl ARGUMENTS` (separated by spaces, or one JSON array): what `rabbitmqctl` prints is
//! `output`. `--set` adds a line to `rabbitmq.conf`. It ends, with all that it started, with its standard input.

use std::io::{self, BufRead, Write};
use std::path::PathBuf;

use celeriac_testkit::rabbitmq_server::{RabbitMqServer, RabbitMqServerOptions, RabbitMqTls};
use serde_json::{Value, json};

fn main() -> io::Result<()> {
    let options = options(std::env::args().skip(1))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut server = runtime.block_on(RabbitMqServer::start_with(options));
    let mut first = json!({ "port": server.port(), "processId": server.process_id() });
    if let Some(port) = server.tls_port() {
        first["tlsPort"] = port.into();
    }
    if let Some(port) = server.management_port() {
        first["managementPort"] = port.into();
    }
    say(&first)?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let answer = runtime.block_on(obey(&mut server, line.trim()));
        say(&answer.unwrap_or_else(|error| json!({ "error": error })))?;
    }
    Ok(())
}

fn say(line: &Value) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()
}

fn options(mut arguments: impl Iterator<Item = String>) -> io::Result<RabbitMqServerOptions> {
    let mut options = RabbitMqServerOptions::default();
    let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
    while let Some(argument) = arguments.next() {
        let mut next = || arguments.next().ok_or_else(|| wrong(format!("{argument} needs more")));
        match argument.as_str() {
            "--management" => options.management = true,
            "--vhost" => options.vhosts.push(next()?),
            "--set" => options.configuration.push(next()?),
            "--tls" => {
                options.tls = Some(RabbitMqTls {
                    ca_certs: PathBuf::from(next()?),
                    certfile: PathBuf::from(next()?),
                    keyfile: PathBuf::from(next()?),
                    requires_client_certificate: false,
                });
            }
            "--client-certificates" => match &mut options.tls {
                Some(tls) => tls.requires_client_certificate = true,
                None => return Err(wrong("--client-certificates comes after --tls".to_owned())),
            },
            other => return Err(wrong(format!("no such option: {other}"))),
        }
    }
    Ok(options)
}

async fn obey(server: &mut RabbitMqServer, line: &str) -> Result<Value, String> {
    match line.split_once(' ').unwrap_or((line, "")) {
        ("kill", "") => {
            server.kill();
            Ok(json!({ "ok": true }))
        }
        ("start", "") => {
            server.start_again().await;
            Ok(json!({ "ok": true, "processId": server.process_id() }))
        }
        ("ctl", arguments) => {
            let arguments: Vec<String> = if arguments.trim_start().starts_with('[') {
                serde_json::from_str(arguments).map_err(|error| error.to_string())?
            } else {
                arguments.split_whitespace().map(str::to_owned).collect()
            };
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            server.try_ctl(&arguments).await.map(|output| json!({ "ok": true, "output": output }))
        }
        _ => Err(format!("no such command: {line}")),
    }
}
