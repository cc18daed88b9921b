//! A real redis-server on a free port, stopped when it is dropped.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::leashed;

/// How long a server may take to answer after it was started, or to end after it was told to.
const DEADLINE: Duration = Duration::from_secs(20);
/// How often a port that somebody else took in the meantime is replaced by another.
const ATTEMPTS: usize = 5;

/// How the server is started.
#[derive(Clone, Debug, Default)]
pub struct RedisServerOptions {
    /// `requirepass`.
    pub password: Option<String>,
    /// `appendonly yes` with `appendfsync always`: what was acknowledged survives [`RedisServer::kill`].
    pub append_only: bool,
    /// Further lines of its configuration, as command line arguments: `["--maxmemory", "2mb"]`.
    pub arguments: Vec<String>,
}

/// A running redis-server with a folder of its own.
#[derive(Debug)]
pub struct RedisServer {
    port: u16,
    directory: PathBuf,
    options: RedisServerOptions,
    process: Option<Child>,
}

impl RedisServer {
    /// Starts one without password and persistence.
    ///
    /// # Panics
    /// When there is no `redis-server` on the path, or it does not answer within 20 s.
    pub async fn start() -> Self {
        Self::start_with(RedisServerOptions::default()).await
    }

    /// Starts one.
    ///
    /// # Panics
    /// When there is no `redis-server` on the path, or it does not answer within 20 s.
    #[allow(clippy::panic)]
    pub async fn start_with(options: RedisServerOptions) -> Self {
        let directory = std::env::temp_dir().join(format!("celeriac-redis-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&directory)
            .unwrap_or_else(|error| panic!("cannot make a folder for redis-server: {error}"));
        let mut server = Self { port: 0, directory, options, process: None };
        for _ in 0..ATTEMPTS {
            server.port = free_port();
            if server.launch().await {
                return server;
            }
        }
        panic!("redis-server did not start; its log: {}", server.log());
    }

    /// `redis://[:password@]127.0.0.1:port/0`.
    pub fn url(&self) -> String {
        self.url_of(0)
    }

    /// The URL of another database.
    pub fn url_of(&self, database: u32) -> String {
        let password = self.options.password.as_ref().map_or(String::new(), |word| format!(":{word}@"));
        format!("redis://{password}127.0.0.1:{}/{database}", self.port)
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The path of its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("s")
    }

    /// A connection for looking at the keys.
    ///
    /// # Panics
    /// When the server does not answer.
    #[allow(clippy::panic)]
    pub async fn connection(&self) -> redis::aio::MultiplexedConnection {
        let connect = async {
            redis::Client::open(self.url())?
                .get_multiplexed_async_connection_with_config(
                    &redis::AsyncConnectionConfig::new()
                        .set_connection_timeout(Some(DEADLINE))
                        .set_response_timeout(Some(DEADLINE)),
                )
                .await
        };
        connect.await.unwrap_or_else(|error: redis::RedisError| panic!("cannot reach redis-server: {error}"))
    }

    /// Stops it as a system does on shutdown, so that it writes what it has to write.
    ///
    /// # Panics
    /// When it has not ended within 20 s.
    #[allow(clippy::panic)]
    pub async fn stop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        // SHUTDOWN rather than a signal: no other process can be meant. It answers by closing the connection.
        let how = if self.options.append_only { "SAVE" } else { "NOSAVE" };
        let mut connection = self.connection().await;
        let _: redis::RedisResult<()> = redis::cmd("SHUTDOWN").arg(how).query_async(&mut connection).await;
        let end = Instant::now() + DEADLINE;
        while matches!(process.try_wait(), Ok(None)) {
            if Instant::now() > end {
                let _ = process.kill();
                panic!("redis-server does not stop");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends it at once, as a crash does.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Starts it again on its port with what it had written.
    ///
    /// # Panics
    /// When it does not answer within 20 s.
    #[allow(clippy::panic)]
    pub async fn start_again(&mut self) {
        self.kill();
        // Its port may be in TIME_WAIT or, for a moment, in somebody's hands.
        for _ in 0..ATTEMPTS {
            if self.launch().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("redis-server did not start again; its log: {}", self.log());
    }

    /// [`stop`](Self::stop), then [`start_again`](Self::start_again).
    pub async fn restart(&mut self) {
        self.stop().await;
        self.start_again().await;
    }

    /// Starts the process; true once it answers, false when it ended instead.
    #[allow(clippy::panic)]
    async fn launch(&mut self) -> bool {
        let mut command = leashed("redis-server");
        command
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string()])
            .args(["--unixsocket", &self.socket().to_string_lossy()])
            .args(["--dir", &self.directory.to_string_lossy()])
            .args(["--logfile", &self.log_path().to_string_lossy()])
            .args(["--save", "", "--daemonize", "no"]);
        if self.options.append_only {
            command.args(["--appendonly", "yes", "--appendfsync", "always"]);
        }
        if let Some(password) = &self.options.password {
            command.args(["--requirepass", password]);
        }
        command.args(&self.options.arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process =
            command.spawn().unwrap_or_else(|error| panic!("cannot start redis-server, install it: {error}"));
        let client = redis::Client::open(self.url())
            .unwrap_or_else(|error| panic!("the URL of the test server: {error}"));
        let directory = self.directory.to_string_lossy().into_owned();
        let process = self.process.insert(process);
        let end = Instant::now() + DEADLINE;
        while Instant::now() < end {
            if !matches!(process.try_wait(), Ok(None)) {
                self.process = None;
                return false;
            }
            let answer = async {
                let mut connection = client.get_multiplexed_async_connection().await?;
                // Refused while it loads its file; CONFIG is not.
                redis::cmd("EXISTS").arg("loading").query_async::<i64>(&mut connection).await?;
                redis::cmd("CONFIG").arg(&["GET", "dir"]).query_async::<Vec<String>>(&mut connection).await
            };
            // Another folder is another's server on our port.
            match answer.await {
                Ok(reply) if reply.contains(&directory) => return true,
                Ok(_) => break,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
        self.kill();
        false
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("log")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The folder of its files.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A port that was free a moment ago.
#[allow(clippy::panic)]
fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map_or_else(|error| panic!("no free port: {error}"), |address| address.port())
}
