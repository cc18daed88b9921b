//! Redis URLs: one reading for the broker and for the result store.
//!
//! Source of the rules: `kombu.utils.url.url_to_parts`, `kombu.transport.redis.Channel._connparams`,
//! `celery.backends.redis.RedisBackend._params_from_url`.

use std::path::PathBuf;
use std::time::Duration;

use ::redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use ::redis::{
    Client, ClientTlsConfig, ConnectionAddr, ErrorKind, IntoConnectionInfo, RedisConnectionInfo, RedisError,
    TlsCertificates,
};
use celeriac_error::{Error, Result};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use crate::url::{scheme, without_password};

/// The port of Redis where the URL names none.
pub const DEFAULT_PORT: u16 = 6379;

/// The host where the URL names none.
pub const DEFAULT_HOST: &str = "localhost";

/// How long the server may take to answer a command, in seconds, unless `socket_timeout` says otherwise
/// (`redis_socket_timeout`).
pub const DEFAULT_SOCKET_TIMEOUT: f64 = 120.0;

/// How long what was sent over TCP may be unconfirmed before the connection counts as lost.
const UNHEARD_OF: Duration = Duration::from_secs(30);

/// How long nothing passes before the other side is asked whether it is there (`redis_socket_keepalive`). With the
/// repetitions this takes as long as [`UNHEARD_OF`].
const KEEPALIVE: Duration = Duration::from_secs(15);

/// How often it is asked again. Where this cannot be set, the system decides.
#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple", windows))]
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// How many times it is asked.
#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple", windows))]
const KEEPALIVE_RETRIES: u32 = 3;

const TLS_OPTIONS: [&str; 5] =
    ["ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname"];

/// Where a Redis server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisAddress {
    /// A TCP port.
    Tcp {
        /// Host name in lower case, or an IP address without brackets.
        host: String,
        /// The port.
        port: u16,
        /// Present when the connection is encrypted.
        tls: Option<RedisTls>,
    },
    /// A Unix domain socket.
    Socket(PathBuf),
}

/// How the server's certificate is checked, and which one is shown to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisTls {
    /// `ssl_cert_reqs`: false for `CERT_NONE`. `CERT_OPTIONAL` checks too, as it does in Python's clients.
    pub verify: bool,
    /// `ssl_check_hostname`; true unless it says false.
    pub check_hostname: bool,
    /// `ssl_ca_certs`: a PEM file of authorities that replaces the built-in ones.
    pub ca_certs: Option<PathBuf>,
    /// `ssl_certfile`: the client's certificate chain as PEM.
    pub certfile: Option<PathBuf>,
    /// `ssl_keyfile`: the key of `certfile`, in the same file unless given.
    pub keyfile: Option<PathBuf>,
}

/// For whom an error is meant: it decides between [`Error::BrokerUnavailable`] and
/// [`Error::ResultStoreUnavailable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedisRole {
    /// A transport.
    Broker,
    /// A result store.
    ResultStore,
}

/// A `redis://`, `rediss://`, `redis+socket://` or `socket://` URL that was read, with the options that came beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct RedisUrl {
    /// Where the server is.
    pub address: RedisAddress,
    /// Number of the database: the path of the URL, or `virtual_host` (also `db`) in the query of a socket's URL.
    pub database: i64,
    /// ACL user.
    pub username: Option<String>,
    /// Password, decoded.
    pub password: Option<String>,
    /// The options and the query of the URL, the options winning.
    pub options: Map<String, Value>,
    masked: String,
}

impl RedisUrl {
    /// Reads `url`; `options` are `broker_transport_options` or `result_backend_transport_options`.
    ///
    /// # Errors
    /// [`Error::InvalidUrl`] names the part that is wrong: a database that is no number, a port out of range,
    /// a word for `ssl_cert_reqs` that there is not, `ssl_…` in the query of a `redis://` URL.
    pub fn parse(url: &str, options: &Map<String, Value>) -> Result<Self> {
        let masked = masked(url);
        let invalid = |reason: String| Error::InvalidUrl { url: masked.clone(), reason };
        let kind = scheme(url).to_ascii_lowercase();
        let socket = matches!(kind.as_str(), "redis+socket" | "socket");
        if !socket && !matches!(kind.as_str(), "redis" | "rediss") {
            return Err(invalid(
                "the scheme must be redis, rediss (TLS) or redis+socket (a Unix socket)".to_owned(),
            ));
        }
        let rest = url.split_once("://").map_or("", |(_, rest)| rest);
        let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, host_port) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));

        let mut merged = Map::new();
        for (key, value) in ::url::form_urlencoded::parse(query.as_bytes()) {
            if kind == "redis" && TLS_OPTIONS.contains(&key.as_ref()) {
                return Err(invalid(format!("`{key}` needs an encrypted connection: write rediss://")));
            }
            merged.insert(key.into_owned(), Value::String(value.into_owned()));
        }
        merged.extend(options.iter().map(|(key, value)| (key.clone(), value.clone())));
        let wants_tls = kind == "rediss" || take_tls_options(&mut merged).map_err(&invalid)?;

        let path = decode(path).map_err(&invalid)?;
        let text = |key: &str| match merged.get(key) {
            Some(Value::String(text)) if !text.is_empty() => Some(text.clone()),
            Some(Value::Number(number)) => Some(number.to_string()),
            _ => None,
        };
        let (address, database) = if socket {
            let file = format!("{}/{path}", decode(host_port).map_err(&invalid)?);
            if path.is_empty() {
                return Err(invalid(
                    "the path of the socket is missing: redis+socket:///run/redis.sock".to_owned(),
                ));
            }
            (RedisAddress::Socket(PathBuf::from(file)), text("virtual_host").or_else(|| text("db")))
        } else {
            let (host, port) = host_and_port(host_port).map_err(&invalid)?;
            let tls = tls(wants_tls, &merged).map_err(&invalid)?;
            let path = Some(path).filter(|path| !path.is_empty());
            (
                RedisAddress::Tcp { host, port, tls },
                path.or_else(|| text("virtual_host")).or_else(|| text("db")),
            )
        };
        let database = match database.as_deref().map(|text| text.trim_matches('/')) {
            None | Some("") => 0,
            Some(text) => text
                .parse::<u32>()
                .map_err(|_| invalid(format!("the database must be a number such as 0, not `{text}`")))?,
        };
        let credential = |text: &str, option: &str| -> Result<Option<String>> {
            let decoded = decode(text).map_err(&invalid)?;
            Ok(if decoded.is_empty() { self::text(&merged, option) } else { Some(decoded) })
        };
        Ok(Self {
            address,
            database: i64::from(database),
            username: credential(user, "username")?,
            password: credential(password, "password")?,
            options: merged,
            masked,
        })
    }

    /// The URL without its password and its query.
    pub fn masked(&self) -> &str {
        &self.masked
    }

    /// Names the server, whatever the database: `redis://host:port` in lower case, or the path of the socket.
    ///
    /// Two names of one host are two identities: taking one server for two only costs speed, the reverse would cost
    /// results.
    pub fn identity(&self) -> String {
        match &self.address {
            RedisAddress::Tcp { host, port, .. } if host.contains(':') => format!("redis://[{host}]:{port}"),
            RedisAddress::Tcp { host, port, .. } => format!("redis://{host}:{port}"),
            RedisAddress::Socket(path) => path.display().to_string(),
        }
    }

    /// An option as text; numbers and booleans are written out. `None` when absent, null or empty.
    pub fn text(&self, key: &str) -> Option<String> {
        text(&self.options, key)
    }

    /// An option in seconds. `None` when absent, null or zero (`redis-py` takes those as no limit).
    ///
    /// # Errors
    /// [`Error::InvalidUrl`] when it is no number of at least 0.
    pub fn seconds(&self, key: &str) -> Result<Option<Duration>> {
        let Some(text) = self.text(key) else { return Ok(None) };
        let seconds = text.parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        match seconds {
            Some(seconds) => Ok(Some(seconds).filter(|seconds| !seconds.is_zero())),
            None => Err(Error::InvalidUrl {
                url: self.masked.clone(),
                reason: format!("`{key}` must be a number of seconds, not `{text}`"),
            }),
        }
    }

    /// How long the server may take to answer: `socket_timeout`, else [`DEFAULT_SOCKET_TIMEOUT`]. `None` (written as
    /// 0 or null) waits for ever.
    ///
    /// # Errors
    /// [`Error::InvalidUrl`] when the option is no number.
    pub fn socket_timeout(&self) -> Result<Option<Duration>> {
        if self.options.contains_key("socket_timeout") {
            return self.seconds("socket_timeout");
        }
        Ok(Some(Duration::from_secs_f64(DEFAULT_SOCKET_TIMEOUT)))
    }

    /// A client for this server and database. Nothing is connected yet; the files that TLS needs are read.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] names the TLS option whose file cannot be used.
    pub fn client(&self) -> Result<Client> {
        let mut settings = RedisConnectionInfo::default()
            .set_db(self.database)
            .set_lib_name("celeriac", env!("CARGO_PKG_VERSION"));
        if let Some(username) = &self.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = &self.password {
            settings = settings.set_password(password);
        }
        let tls = match &self.address {
            RedisAddress::Tcp { tls, .. } => tls.as_ref(),
            RedisAddress::Socket(_) => None,
        };
        let address = match &self.address {
            RedisAddress::Tcp { host, port, tls: None } => ConnectionAddr::Tcp(host.clone(), *port),
            RedisAddress::Tcp { host, port, tls: Some(tls) } => ConnectionAddr::TcpTls {
                host: host.clone(),
                port: *port,
                insecure: !tls.verify,
                tls_params: None,
            },
            RedisAddress::Socket(path) => ConnectionAddr::Unix(path.clone()),
        };
        let invalid =
            |error: RedisError| Error::InvalidUrl { url: self.masked.clone(), reason: error.to_string() };
        let mut info = address
            .into_connection_info()
            .map_err(invalid)?
            .set_redis_settings(settings)
            .set_tcp_settings(tcp_settings());
        let Some(tls) = tls else { return Client::open(info).map_err(invalid) };
        // rustls panics when it is used without one; another part of the process may have chosen already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        if tls.ca_certs.is_some() || tls.certfile.is_some() {
            let unusable = |error: RedisError| Error::InvalidArgument {
                what: "ssl_ca_certs, ssl_certfile, ssl_keyfile".to_owned(),
                reason: error.to_string(),
            };
            let client = Client::build_with_tls(info, tls.certificates()?).map_err(unusable)?;
            info = client.get_connection_info().clone();
        }
        if !tls.check_hostname {
            let mut address = info.addr().clone();
            address.set_danger_accept_invalid_hostnames(true);
            info = info.set_addr(address);
        }
        Client::open(info).map_err(invalid)
    }

    /// What a failure of the client library means: wrong credentials, a server that is away or not ready, or one that
    /// refuses.
    pub fn error(&self, role: RedisRole, error: &RedisError) -> Error {
        let url = self.masked.clone();
        let reason = server_answer(error).unwrap_or_else(|| error.to_string());
        match classify(error) {
            Class::Credentials => Error::AuthenticationFailed { url, reason },
            Class::Refused => Error::Refused { url, reason },
            Class::NotReady => not_ready(role, url, &reason),
            Class::Away => unavailable(role, url, reason),
        }
    }

    /// The server did not answer within `limit`.
    pub fn timed_out(&self, role: RedisRole, what: &str, limit: Duration) -> Error {
        let reason = format!("{what} took longer than {} s", limit.as_secs_f64());
        unavailable(role, self.masked.clone(), reason)
    }
}

/// So that a peer that has gone without a word is noticed by the kernel, also while nobody calls.
fn tcp_settings() -> TcpSettings {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple", windows))]
    let keepalive = keepalive.with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_RETRIES);
    // What is written is complete: nothing is gained by waiting for more of it.
    let settings = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let settings = settings.set_user_timeout(UNHEARD_OF);
    settings
}

/// What the server said, in its own words and not the client library's; `None` when it said nothing. Of several commands the
/// first that failed.
pub fn server_answer(error: &RedisError) -> Option<String> {
    let answers = error.clone().into_server_errors()?;
    let (_, answer) = answers.first()?;
    Some(
        answer
            .details()
            .map_or_else(|| answer.code().to_owned(), |details| format!("{} {details}", answer.code())),
    )
}

/// How an answer is quoted.
pub(crate) fn answered(answer: &str) -> String {
    format!("it answered `{}`", answer.trim_end_matches('.'))
}

fn not_ready(role: RedisRole, url: String, answer: &str) -> Error {
    let reason = answered(answer);
    match role {
        RedisRole::Broker => Error::BrokerNotReady { url, reason },
        RedisRole::ResultStore => Error::ResultStoreNotReady { url, reason },
    }
}

fn unavailable(role: RedisRole, url: String, reason: String) -> Error {
    match role {
        RedisRole::Broker => Error::BrokerUnavailable { url, reason },
        RedisRole::ResultStore => Error::ResultStoreUnavailable { url, reason },
    }
}

enum Class {
    Credentials,
    Refused,
    NotReady,
    Away,
}

fn classify(error: &RedisError) -> Class {
    let Some(answer) = server_answer(error) else {
        return match error.kind() {
            ErrorKind::AuthenticationFailed => Class::Credentials,
            ErrorKind::InvalidClientConfig | ErrorKind::UnexpectedReturnType => Class::Refused,
            _ => Class::Away,
        };
    };
    match answer.split(' ').next().unwrap_or_default() {
        "NOAUTH" | "WRONGPASS" => Class::Credentials,
        // A server that loads its data, or a replica after a failover, will take the command soon; a full memory empties.
        "LOADING" | "MASTERDOWN" | "TRYAGAIN" | "CLUSTERDOWN" | "READONLY" | "OOM" | "MISCONF"
        | "NOREPLICAS" | "BUSY" => Class::NotReady,
        _ => Class::Refused,
    }
}

impl RedisTls {
    fn certificates(&self) -> Result<TlsCertificates> {
        let read = |what: &str, path: &PathBuf| {
            std::fs::read(path).map_err(|error| Error::InvalidArgument {
                what: what.to_owned(),
                reason: format!("cannot read {}: {error}", path.display()),
            })
        };
        let root_cert = self.ca_certs.as_ref().map(|path| read("ssl_ca_certs", path)).transpose()?;
        let client_tls = match &self.certfile {
            None => None,
            Some(certfile) => Some(ClientTlsConfig {
                client_cert: read("ssl_certfile", certfile)?,
                client_key: read("ssl_keyfile", self.keyfile.as_ref().unwrap_or(certfile))?,
            }),
        };
        Ok(TlsCertificates { client_tls, root_cert })
    }
}

/// Without the password, and without a query that may hold one.
fn masked(url: &str) -> String {
    let masked = without_password(url);
    masked.split(['?', '#']).next().unwrap_or_default().to_owned()
}

fn decode(text: &str) -> Result<String, String> {
    percent_decode_str(text)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| "a %-escape in it is not UTF-8".to_owned())
}

fn text(options: &Map<String, Value>, key: &str) -> Option<String> {
    match options.get(key)? {
        Value::String(text) => Some(text.clone()).filter(|text| !text.is_empty()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

fn host_and_port(text: &str) -> Result<(String, u16), String> {
    let (host, port) = if let Some(inside) = text.strip_prefix('[') {
        let (host, after) = inside.split_once(']').ok_or("an IPv6 address must end with `]`")?;
        (host, after.strip_prefix(':').unwrap_or(after))
    } else {
        text.split_once(':').unwrap_or((text, ""))
    };
    let port = match port {
        "" => DEFAULT_PORT,
        port => port.parse().map_err(|_| format!("the port must be a number up to 65535, not `{port}`"))?,
    };
    let host = decode(host)?.to_lowercase();
    Ok((if host.is_empty() { DEFAULT_HOST.to_owned() } else { host }, port))
}

/// Spreads `ssl` (`broker_use_ssl`, `redis_backend_use_ssl`) among the other options, by kombu's names for Redis or by those
/// that it has for AMQP, without `ssl_`. Says whether TLS is asked for.
fn take_tls_options(options: &mut Map<String, Value>) -> Result<bool, String> {
    match options.remove("ssl") {
        Some(Value::Object(given)) => {
            for (key, value) in given {
                let name = if key.starts_with("ssl_") { key.clone() } else { format!("ssl_{key}") };
                if !TLS_OPTIONS.contains(&name.as_str()) {
                    let known = TLS_OPTIONS.join(", ");
                    return Err(format!("there is no TLS option `{key}`; there are {known}"));
                }
                options.insert(name, value);
            }
            Ok(true)
        }
        Some(Value::Bool(true)) => Ok(true),
        _ => Ok(TLS_OPTIONS.iter().any(|key| options.contains_key(*key))),
    }
}

/// Certificates are checked unless the options say otherwise, as redis-py does; Celery's result backend wants a word on it.
fn tls(wanted: bool, options: &Map<String, Value>) -> Result<Option<RedisTls>, String> {
    if !wanted {
        return Ok(None);
    }
    let verify = match text(options, "ssl_cert_reqs").as_deref() {
        // The numbers are those of Python's ssl module.
        None | Some("CERT_REQUIRED" | "required" | "2" | "CERT_OPTIONAL" | "optional" | "1") => true,
        Some("CERT_NONE" | "none" | "0") => false,
        Some(given) => {
            return Err(format!(
                "ssl_cert_reqs must be CERT_REQUIRED (the default), CERT_OPTIONAL or CERT_NONE, not `{given}`"
            ));
        }
    };
    let file = |key: &str| text(options, key).map(PathBuf::from);
    let check_hostname =
        text(options, "ssl_check_hostname").is_none_or(|text| !text.eq_ignore_ascii_case("false"));
    Ok(Some(RedisTls {
        verify,
        check_hostname,
        ca_certs: file("ssl_ca_certs"),
        certfile: file("ssl_certfile"),
        keyfile: file("ssl_keyfile"),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(url: &str) -> RedisUrl {
        RedisUrl::parse(url, &Map::new()).unwrap()
    }

    fn reason(url: &str) -> String {
        let error = RedisUrl::parse(url, &Map::new()).unwrap_err();
        assert_eq!(error.code(), "ERR_CELERIAC_INVALID_URL");
        error.to_string()
    }

    fn tcp(host: &str, port: u16) -> RedisAddress {
        RedisAddress::Tcp { host: host.to_owned(), port, tls: None }
    }

    #[test]
    fn what_the_url_leaves_out_takes_the_defaults() {
        for url in ["redis://", "redis:///", "redis://localhost", "redis://:@localhost:6379/0"] {
            let read = parse(url);
            assert_eq!(read.address, tcp("localhost", 6379), "{url}");
            assert_eq!((read.database, read.username, read.password), (0, None, None), "{url}");
        }
    }

    #[test]
    fn user_password_port_and_database_are_read_and_decoded() {
        let read = parse("redis://me%40home:s%2Fec%3Aret@Example.ORG:6380/15");
        assert_eq!(read.address, tcp("example.org", 6380));
        assert_eq!(read.username.as_deref(), Some("me@home"));
        assert_eq!(read.password.as_deref(), Some("s/ec:ret"));
        assert_eq!(read.database, 15);
        assert_eq!(parse("redis://:pass@host").password.as_deref(), Some("pass"));
        assert_eq!(parse("redis://:pass@host").username, None);
    }

    #[test]
    fn an_ipv6_address_is_read_without_brackets_and_named_with_them() {
        let read = parse("redis://[::1]:7000/1");
        assert_eq!(read.address, tcp("::1", 7000));
        assert_eq!(read.identity(), "redis://[::1]:7000");
    }

    #[test]
    fn a_socket_takes_its_database_from_the_query() {
        let read = parse("redis+socket://:pass@/run/Redis.sock?virtual_host=3");
        assert_eq!(read.address, RedisAddress::Socket(PathBuf::from("/run/Redis.sock")));
        assert_eq!(read.database, 3);
        assert_eq!(read.password.as_deref(), Some("pass"));
        assert_eq!(read.identity(), "/run/Redis.sock");
        assert_eq!(parse("redis+socket:///run/redis.sock?db=2").database, 2);
    }

    #[test]
    fn the_identity_names_the_server_and_no_database() {
        assert_eq!(parse("redis://:a@HOST/1").identity(), "redis://host:6379");
        assert_eq!(parse("redis://host:6379/2").identity(), parse("redis://host").identity());
        assert_ne!(parse("redis://host:6380").identity(), parse("redis://host").identity());
    }

    #[test]
    fn no_password_is_shown() {
        let read = parse("redis://me:hidden@host/1?password=hidden");
        assert_eq!(read.masked(), "redis://me:**@host/1");
        assert!(!reason("redis://me:hidden@host/x?password=hidden").contains("hidden"));
    }

    #[test]
    fn a_wrong_part_is_named() {
        assert!(reason("redis://host/mail").contains("`mail`"));
        assert!(reason("redis://host/-1").contains("`-1`"));
        assert!(reason("redis://host:99999").contains("`99999`"));
        assert!(reason("redis://[::1").contains(']'));
        assert!(reason("redis+socket://").contains("socket"));
        assert!(reason("amqp://host").contains("rediss"));
    }

    #[test]
    fn tls_checks_certificates_unless_told_otherwise() {
        assert!(reason("rediss://host?ssl_cert_reqs=maybe").contains("`maybe`"));
        assert!(reason("redis://host?ssl_cert_reqs=CERT_NONE").contains("rediss://"));
        let read = parse("rediss://host?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs=%2Fca%2Fca.pem");
        let RedisAddress::Tcp { tls: Some(tls), .. } = read.address else { panic!("no TLS") };
        assert!(tls.verify && tls.check_hostname);
        assert_eq!(tls.ca_certs, Some(PathBuf::from("/ca/ca.pem")));
        for (query, verify) in [
            ("", true),
            ("?ssl_cert_reqs=none", false),
            ("?ssl_cert_reqs=optional", true),
            ("?ssl_cert_reqs=required", true),
            ("?ssl_cert_reqs=CERT_NONE", false),
        ] {
            let read = parse(&format!("rediss://host{query}"));
            let RedisAddress::Tcp { tls: Some(tls), .. } = read.address else { panic!("no TLS") };
            assert_eq!(tls.verify, verify, "{query}");
        }
    }

    #[test]
    fn broker_use_ssl_turns_tls_on_by_either_spelling_of_its_options() {
        for ssl in [json!({ "ssl_certfile": "c.pem" }), json!({ "certfile": "c.pem" })] {
            let options = json!({ "ssl": ssl });
            let read = RedisUrl::parse("redis://host", options.as_object().unwrap()).unwrap();
            let RedisAddress::Tcp { tls: Some(tls), .. } = read.address else { panic!("no TLS") };
            assert!(tls.verify);
            assert_eq!(tls.certfile, Some(PathBuf::from("c.pem")));
        }
        for (ssl, encrypted) in [(json!(true), true), (json!(false), false), (json!(null), false)] {
            let options = json!({ "ssl": ssl });
            let read = RedisUrl::parse("redis://host", options.as_object().unwrap()).unwrap();
            let RedisAddress::Tcp { tls, .. } = read.address else { panic!("no TCP") };
            assert_eq!(tls.is_some(), encrypted, "{ssl}");
        }
        let options = json!({ "ssl": { "certificate": "c.pem" } });
        let error = RedisUrl::parse("redis://host", options.as_object().unwrap()).unwrap_err();
        assert!(error.to_string().contains("`certificate`"), "{error}");
    }

    #[test]
    fn options_beside_the_url_turn_tls_on_and_win_over_the_query() {
        let options = json!({ "ssl_cert_reqs": 0, "socket_timeout": 5 });
        let read = RedisUrl::parse("redis://host?socket_timeout=7", options.as_object().unwrap()).unwrap();
        let RedisAddress::Tcp { tls: Some(tls), .. } = &read.address else { panic!("no TLS") };
        assert!(!tls.verify);
        assert_eq!(read.socket_timeout().unwrap(), Some(Duration::from_secs(5)));
    }

    #[test]
    fn the_answer_may_take_two_minutes_unless_told_otherwise() {
        assert_eq!(parse("redis://host").socket_timeout().unwrap(), Some(Duration::from_secs(120)));
        assert_eq!(
            parse("redis://host?socket_timeout=0.5").socket_timeout().unwrap(),
            Some(Duration::from_millis(500))
        );
        assert_eq!(parse("redis://host?socket_timeout=0").socket_timeout().unwrap(), None);
        assert!(parse("redis://host?socket_timeout=soon").socket_timeout().is_err());
    }

    #[test]
    fn a_tls_file_that_is_missing_is_named() {
        let read = parse("rediss://host?ssl_cert_reqs=required&ssl_ca_certs=missing.pem");
        let error = read.client().unwrap_err();
        assert_eq!(error.code(), "ERR_CELERIAC_INVALID_ARGUMENT");
        assert!(error.to_string().contains("missing.pem"), "{error}");
    }

    #[test]
    fn every_kind_of_address_makes_a_client() {
        for url in [
            "redis://me:pass@host:1/2",
            "rediss://host?ssl_cert_reqs=none",
            "rediss://host?ssl_cert_reqs=required&ssl_check_hostname=false",
            "redis+socket:///run/redis.sock?virtual_host=1",
        ] {
            let read = parse(url);
            let client = read.client().unwrap();
            let info = client.get_connection_info();
            assert_eq!(info.redis_settings().db(), read.database, "{url}");
            assert!(info.tcp_settings().keepalive().is_some(), "{url}");
            #[cfg(target_os = "linux")]
            assert_eq!(info.tcp_settings().user_timeout(), Some(UNHEARD_OF), "{url}");
        }
    }
}
