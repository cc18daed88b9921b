//! A real rabbitmq-server on free ports, stopped when it is dropped, with everything that it started.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Weak, mpsc};
use std::time::{Duration, Instant};

use celeriac_broker::sync::lock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::leashed;

/// How long a server may take to answer after it was started, or to end after it was told to.
const DEADLINE: Duration = Duration::from_secs(90);
/// How often ports that somebody else took in the meantime are replaced by others.
const ATTEMPTS: usize = 3;
/// Where Debian has the programs, which there do not change the user.
const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";
/// `guest`, as the broker keeps it.
const GUEST: &str = "kI3GCrswBLNZQzHJJ95QLoyfAVooYhnvf7jbqiW9BjOYUloe";

/// How the server is started.
#[derive(Clone, Debug, Default)]
pub struct RabbitMqServerOptions {
    /// Virtual hosts beside `/`, on which `guest` may do everything.
    pub vhosts: Vec<String>,
    /// An encrypted listener beside the plain one.
    pub tls: Option<RabbitMqTls>,
    /// The management plugin: `/api` by HTTP, with fresh figures. It takes some time to start.
    pub management: bool,
    /// Further lines of its `rabbitmq.conf`.
    pub configuration: Vec<String>,
}

/// The files of an encrypted listener, as PEM.
#[derive(Clone, Debug)]
pub struct RabbitMqTls {
    /// Who may have signed the clients' certificates.
    pub ca_certs: PathBuf,
    /// The server's own.
    pub certfile: PathBuf,
    /// The key of it.
    pub keyfile: PathBuf,
    /// Whether clients must show a certificate.
    pub requires_client_certificate: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Ports {
    amqp: u16,
    tls: u16,
    management: u16,
    distribution: u16,
    epmd: u16,
}

/// A running rabbitmq-server with a folder, a node name, a cookie and an epmd of its own.
#[derive(Debug)]
pub struct RabbitMqServer {
    ports: Ports,
    directory: PathBuf,
    options: RabbitMqServerOptions,
    epmd: Option<Child>,
    process: Option<Child>,
}

impl RabbitMqServer {
    /// Starts one with the virtual host `/` and the user `guest`.
    ///
    /// # Panics
    /// When it is not installed, or does not answer in time.
    pub async fn start() -> Self {
        Self::start_with(RabbitMqServerOptions::default()).await
    }

    /// Starts one.
    ///
    /// # Panics
    /// When it is not installed, or does not answer in time.
    #[allow(clippy::panic)]
    pub async fn start_with(options: RabbitMqServerOptions) -> Self {
        let directory =
            std::env::temp_dir().join(format!("celeriac-rabbitmq-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir_all(directory.join("log"))
            .unwrap_or_else(|error| panic!("cannot make a folder for rabbitmq-server: {error}"));
        let mut server = Self { ports: Ports::default(), directory, options, epmd: None, process: None };
        for _ in 0..ATTEMPTS {
            server.ports = free_ports();
            server.configure();
            if server.launch().await {
                return server;
            }
        }
        panic!("rabbitmq-server did not start; its log: {}", server.log());
    }

    /// One that several tests share: it runs as long as one of them has it.
    #[allow(clippy::panic)]
    pub async fn shared() -> Arc<SharedRabbitMqServer> {
        static SHARED: tokio::sync::Mutex<Weak<SharedRabbitMqServer>> =
            tokio::sync::Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(running) = shared.upgrade() {
            return running;
        }
        // It is on a leash of the thread that starts it, so it needs one that lives longer than a test.
        let (started, address) = tokio::sync::oneshot::channel();
        let (end, ended) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.unwrap_or_else(|error| panic!("no runtime: {error}"));
            let server = runtime.block_on(Self::start());
            let _ = started.send(server.url());
            let _ = ended.recv();
        });
        let url = address.await.unwrap_or_else(|_| panic!("rabbitmq-server did not start"));
        let running = Arc::new(SharedRabbitMqServer { url, running: Mutex::new(Some((end, thread))) });
        *shared = Arc::downgrade(&running);
        running
    }

    /// `amqp://127.0.0.1:port//`, as `guest`.
    pub fn url(&self) -> String {
        format!("amqp://127.0.0.1:{}//", self.ports.amqp)
    }

    /// The URL of another virtual host.
    pub fn url_of(&self, vhost: &str) -> String {
        format!("amqp://127.0.0.1:{}/{vhost}", self.ports.amqp)
    }

    /// The URL of the encrypted listener.
    pub fn tls_url(&self) -> String {
        format!("amqps://localhost:{}//", self.ports.tls)
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.ports.amqp
    }

    /// The port of the encrypted listener, where there is one.
    pub fn tls_port(&self) -> Option<u16> {
        self.options.tls.is_some().then_some(self.ports.tls)
    }

    /// The port of the management plugin, where it is on.
    pub fn management_port(&self) -> Option<u16> {
        self.options.management.then_some(self.ports.management)
    }

    /// The process, for tests that stop and continue it; `None` while it does not run.
    pub fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// The folder of its files.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What `rabbitmqctl` with these arguments prints.
    ///
    /// # Panics
    /// When it fails.
    #[allow(clippy::panic)]
    pub async fn ctl(&self, arguments: &[&str]) -> String {
        self.try_ctl(arguments).await.unwrap_or_else(|error| panic!("rabbitmqctl {arguments:?}: {error}"))
    }

    /// What `rabbitmqctl` with these arguments prints.
    ///
    /// # Errors
    /// What it prints when it fails.
    pub async fn try_ctl(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(format!("{PROGRAMS}/rabbitmqctl"));
        self.environment(&mut command);
        command.arg("--silent").args(arguments);
        let output = tokio::process::Command::from(command).stdin(Stdio::null()).output().await;
        let output = output.map_err(|error| format!("cannot start rabbitmqctl: {error}"))?;
        let (out, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() { Ok(out.into_owned()) } else { Err(format!("{out}{errors}")) }
    }

    /// Ends it at once, as a crash does.
    pub fn kill(&mut self) {
        end(&mut self.process);
    }

    /// Starts it again on its ports with what it had written.
    ///
    /// # Panics
    /// When it does not answer in time.
    #[allow(clippy::panic)]
    pub async fn start_again(&mut self) {
        self.kill();
        for _ in 0..ATTEMPTS {
            if self.launch().await {
                return;
            }
        }
        panic!("rabbitmq-server did not start again; its log: {}", self.log());
    }

    /// Starts the processes; true once the broker answers, false when it ended instead.
    #[allow(clippy::panic)]
    async fn launch(&mut self) -> bool {
        if self.epmd.as_mut().is_none_or(|epmd| !matches!(epmd.try_wait(), Ok(None))) {
            let mut command = leashed("epmd");
            command.args(["-port", &self.ports.epmd.to_string(), "-address", "127.0.0.1"]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            self.epmd = Some(
                command.spawn().unwrap_or_else(|error| panic!("cannot start epmd, install it: {error}")),
            );
        }
        let mut command = leashed(format!("{PROGRAMS}/rabbitmq-server"));
        self.environment(&mut command);
        // So that the process is the broker itself, not a shell that waits for it.
        command.env("RUNNING_UNDER_SYSTEMD", "true");
        command.stdin(Stdio::null());
        for (stream, name) in [(true, "out"), (false, "err")] {
            let file = std::fs::File::create(self.directory.join(name))
                .unwrap_or_else(|error| panic!("cannot write the log of rabbitmq-server: {error}"));
            if stream {
                command.stdout(file)
            } else {
                command.stderr(file)
            };
        }
        let process = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start rabbitmq-server, install it: {error}"));
        let process = self.process.insert(process);
        let limit = Instant::now() + DEADLINE;
        while Instant::now() < limit {
            if !matches!(process.try_wait(), Ok(None)) {
                break;
            }
            if answers(self.ports.amqp).await {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        self.kill();
        false
    }

    fn environment(&self, command: &mut Command) {
        let path = |name: &str| self.directory.join(name);
        command
            .env("HOME", &self.directory)
            .env("RABBITMQ_NODENAME", format!("celeriac-{}@localhost", self.ports.amqp))
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_DIST_PORT", self.ports.distribution.to_string())
            .env("ERL_EPMD_PORT", self.ports.epmd.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_MNESIA_BASE", path("mnesia"))
            .env("RABBITMQ_LOG_BASE", path("log"))
            .env("RABBITMQ_CONFIG_FILE", path("rabbitmq.conf"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", path("enabled_plugins"))
            .env("RABBITMQ_PID_FILE", path("pid"))
            .env("RABBITMQ_GENERATED_CONFIG_DIR", path("generated"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", path("none"))
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+S 2:2 -kernel inet_dist_use_interface {127,0,0,1}");
    }

    #[allow(clippy::panic)]
    fn configure(&self) {
        let mut lines = vec![
            format!("listeners.tcp.1 = 127.0.0.1:{}", self.ports.amqp),
            "loopback_users = none".to_owned(),
            "log.console = true".to_owned(),
            "log.console.level = warning".to_owned(),
            "vm_memory_high_watermark.absolute = 1GB".to_owned(),
            "disk_free_limit.absolute = 50MB".to_owned(),
            format!("load_definitions = {}", self.directory.join("definitions.json").display()),
        ];
        if let Some(tls) = &self.options.tls {
            lines.push(format!("listeners.ssl.1 = 127.0.0.1:{}", self.ports.tls));
            lines.push(format!("ssl_options.cacertfile = {}", tls.ca_certs.display()));
            lines.push(format!("ssl_options.certfile = {}", tls.certfile.display()));
            lines.push(format!("ssl_options.keyfile = {}", tls.keyfile.display()));
            let verify = if tls.requires_client_certificate { "verify_peer" } else { "verify_none" };
            lines.push(format!("ssl_options.verify = {verify}"));
            lines.push(format!("ssl_options.fail_if_no_peer_cert = {}", tls.requires_client_certificate));
        }
        if self.options.management {
            lines.push("management.tcp.ip = 127.0.0.1".to_owned());
            lines.push(format!("management.tcp.port = {}", self.ports.management));
            lines.push("collect_statistics_interval = 500".to_owned());
        }
        lines.extend(self.options.configuration.iter().cloned());
        let vhosts: Vec<&str> =
            std::iter::once("/").chain(self.options.vhosts.iter().map(String::as_str)).collect();
        let definitions = serde_json::json!({
            "vhosts": vhosts.iter().map(|name| serde_json::json!({ "name": name })).collect::<Vec<_>>(),
            "users": [{
                "name": "guest",
                "password_hash": GUEST,
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": "administrator",
            }],
            "permissions": vhosts.iter().map(|name| serde_json::json!({
                "user": "guest", "vhost": name, "configure": ".*", "write": ".*", "read": ".*",
            })).collect::<Vec<_>>(),
        });
        for (name, content) in [
            ("rabbitmq.conf", lines.join("\n") + "\n"),
            ("definitions.json", definitions.to_string()),
            (
                "enabled_plugins",
                format!("[{}].\n", if self.options.management { "rabbitmq_management" } else { "" }),
            ),
        ] {
            std::fs::write(self.directory.join(name), content)
                .unwrap_or_else(|error| panic!("cannot configure rabbitmq-server: {error}"));
        }
    }

    fn log(&self) -> String {
        let text = |name: &str| std::fs::read_to_string(self.directory.join(name)).unwrap_or_default();
        format!("{}{}", text("out"), text("err"))
    }
}

impl Drop for RabbitMqServer {
    fn drop(&mut self) {
        self.kill();
        end(&mut self.epmd);
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A server that several tests share.
#[derive(Debug)]
pub struct SharedRabbitMqServer {
    url: String,
    running: Mutex<Option<(mpsc::Sender<()>, std::thread::JoinHandle<()>)>>,
}

impl SharedRabbitMqServer {
    /// `amqp://127.0.0.1:port//`, as `guest`.
    pub fn url(&self) -> String {
        self.url.clone()
    }
}

impl Drop for SharedRabbitMqServer {
    fn drop(&mut self) {
        let running = lock(&self.running).take();
        if let Some((end, thread)) = running {
            drop(end);
            let _ = thread.join();
        }
    }
}

fn end(process: &mut Option<Child>) {
    if let Some(mut process) = process.take() {
        let _ = process.kill();
        let _ = process.wait();
    }
}

/// Whether a broker says something on this port.
async fn answers(port: u16) -> bool {
    let ask = async {
        let mut stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
        let mut first = [0; 1];
        stream.read_exact(&mut first).await
    };
    matches!(tokio::time::timeout(Duration::from_secs(5), ask).await, Ok(Ok(_)))
}

/// Ports that were free a moment ago.
#[allow(clippy::panic)]
fn free_ports() -> Ports {
    let bound: std::io::Result<Vec<TcpListener>> =
        (0..5).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect();
    let bound = bound.unwrap_or_else(|error| panic!("no free ports: {error}"));
    let port = |place: usize| bound[place].local_addr().map_or(0, |address| address.port());
    Ports { amqp: port(0), tls: port(1), management: port(2), distribution: port(3), epmd: port(4) }
}
