//! Test only: starts real servers on free ports, and holds the contracts that every transport and every result
//! store must fulfil.

pub mod certificates;
pub mod rabbitmq_server;
pub mod redis_server;
pub mod result_store_contract;
pub mod tcp_proxy;
pub mod transport_contract;

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

/// Part of every Linux with util-linux.
const SETPRIV: &str = "/usr/bin/setpriv";

/// A command that is killed when the thread that starts it ends, where the system can do that: a test that is killed must
/// leave no server behind. Its process id is that of the program.
pub fn leashed(program: impl AsRef<OsStr>) -> Command {
    if Path::new(SETPRIV).exists() {
        let mut command = Command::new(SETPRIV);
        command.args(["--pdeathsig", "KILL"]).arg(program);
        command
    } else {
        Command::new(program)
    }
}
