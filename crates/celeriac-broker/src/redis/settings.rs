//! What the URL and the transport options of kombu's Redis transport say.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use celeriac_error::{Error, Result};
use percent_encoding::percent_decode_str;
use redis::{ClientTlsConfig, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, TlsCertificates};
use serde_json::{Map, Value};

use super::keys::Keys;
use crate::registry::TransportOptions;
use crate::url;

/// kombu's `Transport.default_port`.
const DEFAULT_PORT: u16 = 6379;

/// In which order the queues of one priority step are looked at (`queue_order_strategy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueueOrder {
    /// Each in turn; the default.
    RoundRobin,
    /// By name, the first as long as it has messages.
    Sorted,
    /// As given, the first as long as it has messages.
    Priority,
}

/// Everything that stays the same for the life of a transport.
pub(super) struct Settings {
    /// Without its password.
    pub(super) url: String,
    /// `redis://host:port`, or the path of the socket, in lower case.
    pub(super) identity: String,
    pub(super) client: redis::Client,
    pub(super) database: i64,
    pub(super) keys: Keys,
    /// After how long kombu's claims count as lost (`visibility_timeout`, 3600 s).
    pub(super) visibility_timeout: Duration,
    /// How often kombu's claims are looked through (`unacked_restore_interval`, 10 s).
    pub(super) restore_interval: Duration,
    /// How long a connection may take (`socket_connect_timeout`, else `broker_connection_timeout`).
    pub(super) connect_timeout: Duration,
    /// How long an answer may take (`socket_timeout`; 10 s, where kombu waits for ever).
    pub(super) response_timeout: Duration,
    pub(super) order: QueueOrder,
    /// Where a direct message goes that matches no queue (`deadletter_queue`).
    pub(super) dead_letter_queue: Option<String>,
}

impl Settings {
    pub(super) fn new(broker_url: &str, given: TransportOptions) -> Result<Self> {
        let address = Address::parse(broker_url)?;
        let mut merged = address.query.clone();
        merged.extend(given.options);
        let options = Options { url: url::without_password(broker_url), values: merged };

        let database = match options.text("virtual_host")?.unwrap_or_else(|| address.path.clone()).as_str() {
            "" | "/" => 0,
            text => text.trim_start_matches('/').parse().map_err(|_| {
                options.wrong(&format!(
                    "the database must be a number from 0, as in redis://host/0, not `{text}`"
                ))
            })?,
        };
        let mut login = RedisConnectionInfo::default().set_db(database);
        if let Some(user) = &address.user {
            login = login.set_username(user);
        }
        if let Some(password) = &address.password {
            login = login.set_password(password);
        }
        if let Some(name) = options.text("client_name")? {
            login = login.set_lib_name(name, env!("CARGO_PKG_VERSION"));
        }
        let (client, identity) = address.client(login, &options)?;

        Ok(Self {
            keys: keys(&options, database)?,
            visibility_timeout: options.seconds("visibility_timeout")?.unwrap_or(Duration::from_hours(1)),
            restore_interval: options.seconds("unacked_restore_interval")?.unwrap_or(Duration::from_secs(10)),
            connect_timeout: options.seconds("socket_connect_timeout")?.unwrap_or(given.connect_timeout),
            response_timeout: options.seconds("socket_timeout")?.unwrap_or(Duration::from_secs(10)),
            order: match options.text("queue_order_strategy")?.as_deref() {
                None | Some("round_robin") => QueueOrder::RoundRobin,
                Some("sorted") => QueueOrder::Sorted,
                Some("priority") => QueueOrder::Priority,
                Some(other) => {
                    return Err(options.wrong(&format!(
                        "queue_order_strategy must be round_robin, sorted or priority, not `{other}`"
                    )));
                }
            },
            dead_letter_queue: options.text("deadletter_queue")?,
            url: options.url,
            identity,
            client,
            database,
        })
    }
}

fn keys(options: &Options, database: i64) -> Result<Keys> {
    let mut keys = Keys::default();
    let prefix = options.text("global_keyprefix")?.unwrap_or_default();
    let named = |name: &str, default: &str| -> Result<String> {
        Ok(format!("{prefix}{}", options.text(name)?.unwrap_or_else(|| default.to_owned())))
    };
    keys.unacked = named("unacked_key", "unacked")?;
    keys.unacked_index = named("unacked_index_key", "unacked_index")?;
    if let Some(separator) = options.text("sep")? {
        keys.separator = separator;
    }
    match options.values.get("priority_steps") {
        None | Some(Value::Null) => {}
        Some(Value::Array(steps)) => {
            keys.steps = steps.iter().filter_map(|step| u8::try_from(step.as_u64()?).ok()).collect();
            keys.steps.sort_unstable();
            keys.steps.dedup();
            if keys.steps.len() != steps.len() || steps.is_empty() {
                return Err(options.wrong("priority_steps must be a list of different numbers from 0 to 255"));
            }
        }
        Some(_) => return Err(options.wrong("priority_steps must be a list of numbers, as in [0, 3, 6, 9]")),
    }
    let fanout = match options.values.get("fanout_prefix") {
        Some(Value::String(text)) if !matches!(text.as_str(), "True" | "true" | "1") => {
            if matches!(text.as_str(), "False" | "false" | "0" | "") { String::new() } else { text.clone() }
        }
        Some(Value::Bool(false)) => String::new(),
        _ => "/{db}.".to_owned(),
    };
    keys.fanout_prefix = format!("{prefix}{}", fanout.replace("{db}", &database.to_string()));
    keys.fanout_patterns = options.flag("fanout_patterns")?.unwrap_or(true);
    keys.prefix = prefix;
    Ok(keys)
}

/// The options by name; those in the URL are texts.
struct Options {
    url: String,
    values: Map<String, Value>,
}

impl Options {
    fn wrong(&self, reason: &str) -> Error {
        Error::InvalidUrl { url: self.url.clone(), reason: reason.to_owned() }
    }

    fn text(&self, name: &str) -> Result<Option<String>> {
        match self.values.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(other) => Err(self.wrong(&format!("{name} must be a text, not {other}"))),
        }
    }

    fn parsed<T: FromStr>(&self, name: &str, wanted: impl Display) -> Result<Option<T>> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| self.wrong(&format!("{name} must be {wanted}, not `{text}`")))
    }

    fn seconds(&self, name: &str) -> Result<Option<Duration>> {
        let Some(seconds) = self.parsed::<f64>(name, "a number of seconds")? else { return Ok(None) };
        let duration = Duration::try_from_secs_f64(seconds).ok().filter(|duration| !duration.is_zero());
        duration.map(Some).ok_or_else(|| self.wrong(&format!("{name} must be above zero, not {seconds}")))
    }

    fn flag(&self, name: &str) -> Result<Option<bool>> {
        match self.values.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(Value::String(text)) if matches!(text.to_lowercase().as_str(), "true" | "1") => {
                Ok(Some(true))
            }
            Some(Value::String(text)) if matches!(text.to_lowercase().as_str(), "false" | "0") => {
                Ok(Some(false))
            }
            Some(other) => Err(self.wrong(&format!("{name} must be true or false, not {other}"))),
        }
    }
}

/// The parts of the URL, percent-decoded, as kombu takes them apart (`kombu.utils.url`).
struct Address {
    scheme: String,
    user: Option<String>,
    password: Option<String>,
    host: String,
    port: u16,
    path: String,
    query: Map<String, Value>,
}

impl Address {
    fn parse(broker_url: &str) -> Result<Self> {
        let wrong = |reason: &str| Error::InvalidUrl {
            url: url::without_password(broker_url),
            reason: reason.to_owned(),
        };
        let (scheme, rest) =
            broker_url.split_once("://").ok_or_else(|| wrong("it must begin with redis://"))?;
        let rest = rest.split('#').next().unwrap_or_default();
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, place) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let (host, port) = match place.strip_prefix('[').and_then(|place| place.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':').unwrap_or_default()),
            None => place.split_once(':').unwrap_or((place, "")),
        };
        let port = match port {
            "" => DEFAULT_PORT,
            text => text.parse().map_err(|_| wrong("the port must be a number from 1 to 65535"))?,
        };
        let plain = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let some = |text: &str| (!text.is_empty()).then(|| plain(text));
        Ok(Self {
            scheme: scheme.to_lowercase(),
            user: some(user),
            password: some(password),
            host: if host.is_empty() { "127.0.0.1".to_owned() } else { plain(host).to_lowercase() },
            port,
            path: plain(path),
            query: query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .map(|(name, value)| (plain(name), Value::String(plain(&value.replace('+', " ")))))
                .collect(),
        })
    }

    /// The client, and the identity of the server.
    fn client(&self, login: RedisConnectionInfo, options: &Options) -> Result<(redis::Client, String)> {
        let refused = |error: redis::RedisError| options.wrong(&error.to_string());
        let connect_to = |address: ConnectionAddr| {
            address.into_connection_info().map(|info| info.set_redis_settings(login.clone())).map_err(refused)
        };
        if self.scheme == "redis+socket" {
            let path = format!("/{}", self.path.trim_start_matches('/'));
            let info = connect_to(ConnectionAddr::Unix(PathBuf::from(&path)))?;
            return Ok((redis::Client::open(info).map_err(refused)?, path.to_lowercase()));
        }
        let identity = format!("redis://{}:{}", self.host, self.port);
        if self.scheme == "redis" {
            let info = connect_to(ConnectionAddr::Tcp(self.host.clone(), self.port))?;
            return Ok((redis::Client::open(info).map_err(refused)?, identity));
        }
        let insecure = match options.text("ssl_cert_reqs")?.unwrap_or_default().to_lowercase().as_str() {
            "" | "required" | "cert_required" => false,
            // Nothing in between exists: a certificate is checked or it is not.
            "none" | "cert_none" | "optional" | "cert_optional" => true,
            other => {
                return Err(options
                    .wrong(&format!("ssl_cert_reqs must be required, optional or none, not `{other}`")));
            }
        };
        let info = connect_to(ConnectionAddr::TcpTls {
            host: self.host.clone(),
            port: self.port,
            insecure,
            tls_params: None,
        })?;
        let file = |name: &str| -> Result<Option<Vec<u8>>> {
            let Some(path) = options.text(name)? else { return Ok(None) };
            std::fs::read(&path).map(Some).map_err(|error| options.wrong(&format!("{name} {path}: {error}")))
        };
        let client_tls = match (file("ssl_certfile")?, file("ssl_keyfile")?) {
            (Some(client_cert), Some(client_key)) => Some(ClientTlsConfig { client_cert, client_key }),
            (None, None) => None,
            _ => return Err(options.wrong("ssl_certfile and ssl_keyfile belong together")),
        };
        let certificates = TlsCertificates { client_tls, root_cert: file("ssl_ca_certs")? };
        Ok((redis::Client::build_with_tls(info, certificates).map_err(refused)?, identity))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(url: &str) -> Settings {
        Settings::new(url, TransportOptions::default()).unwrap()
    }

    fn login(settings: &Settings) -> (Option<&str>, Option<&str>) {
        let login = settings.client.get_connection_info().redis_settings();
        (login.username(), login.password())
    }

    #[test]
    fn the_database_is_the_path() {
        assert_eq!(open("redis://").database, 0);
        assert_eq!(open("redis://localhost/").database, 0);
        assert_eq!(open("redis://localhost:6380/5").database, 5);
        assert_eq!(open("redis://localhost:6380/5").identity, "redis://localhost:6380");
        assert_eq!(open("redis://LocalHost").identity, "redis://localhost:6379");
        let error =
            Settings::new("redis://:secret@localhost/five", TransportOptions::default()).err().unwrap();
        assert_eq!(error.code(), "ERR_CELERIAC_INVALID_URL");
        assert!(error.to_string().contains("five") && !error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn user_and_password_are_percent_decoded() {
        assert_eq!(login(&open("redis://:p%40ss%2Fw@host/1")), (None, Some("p@ss/w")));
        assert_eq!(login(&open("redis://me:p:w@host")), (Some("me"), Some("p:w")));
        assert_eq!(login(&open("redis://host")), (None, None));
    }

    #[test]
    fn a_socket_takes_its_database_from_virtual_host() {
        let settings = open("redis+socket:///run/Redis.sock?virtual_host=3");
        assert_eq!(settings.database, 3);
        assert_eq!(settings.identity, "/run/redis.sock");
        assert_eq!(
            settings.client.get_connection_info().addr(),
            &ConnectionAddr::Unix(PathBuf::from("/run/Redis.sock"))
        );
    }

    #[test]
    fn transport_options_win_over_the_query() {
        let mut options = TransportOptions::default();
        options.options.insert("visibility_timeout".to_owned(), 60.into());
        options.options.insert("priority_steps".to_owned(), serde_json::json!([0, 5]));
        let url = "redis://host/2?visibility_timeout=9&global_keyprefix=pre%3A&fanout_patterns=false";
        let settings = Settings::new(url, options).unwrap();
        assert_eq!(settings.visibility_timeout, Duration::from_secs(60));
        assert_eq!(settings.keys.steps, [0, 5]);
        assert_eq!(settings.keys.unacked, "pre:unacked");
        assert_eq!(settings.keys.fanout_prefix, "pre:/2.");
        assert!(!settings.keys.fanout_patterns);
    }

    #[test]
    fn a_wrong_option_is_named() {
        for (query, word) in [
            ("visibility_timeout=soon", "visibility_timeout"),
            ("visibility_timeout=0", "visibility_timeout"),
            ("priority_steps=0", "priority_steps"),
            ("queue_order_strategy=random", "queue_order_strategy"),
            ("fanout_patterns=perhaps", "fanout_patterns"),
        ] {
            let error =
                Settings::new(&format!("redis://host?{query}"), TransportOptions::default()).err().unwrap();
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
