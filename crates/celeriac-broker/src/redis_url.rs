//! Redis URLs: one reading for the broker and for the result store.
//!
//! Source of the rules: `kombu.utils.url.url_to_parts`, `kombu.transport.redis.Channel._connparams`,
//! `celery.backends.redis.RedisBackend._params_from_url`.

mod client;
mod failure;

use std::path::PathBuf;
use std::time::Duration;

use celeriac_error::{Error, Result};
use serde_json::{Map, Value};

pub(crate) use self::failure::answered;
pub use self::failure::{RedisRole, server_answer};
use crate::tls::TlsSettings;
pub use crate::url::DEFAULT_HOST;
use crate::url::{Parts, decode, host_and_port, masked, text};

/// The port of Redis where the URL names none.
pub const DEFAULT_PORT: u16 = 6379;

/// How long the server may take to answer a command, in seconds, unless `socket_timeout` says otherwise
/// (`redis_socket_timeout`).
pub const DEFAULT_SOCKET_TIMEOUT: f64 = 120.0;

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
        tls: Option<TlsSettings>,
    },
    /// A Unix domain socket.
    Socket(PathBuf),
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
        let parts = Parts::of(url);
        let kind = parts.scheme.as_str();
        let socket = matches!(kind, "redis+socket" | "socket");
        if !socket && !matches!(kind, "redis" | "rediss") {
            return Err(invalid(
                "the scheme must be redis, rediss (TLS) or redis+socket (a Unix socket)".to_owned(),
            ));
        }
        let tls = if socket {
            Ok(None)
        } else {
            TlsSettings::read(kind == "rediss", "rediss", &parts.query, options)
        };
        let tls = tls.map_err(&invalid)?;
        if tls.as_ref().is_some_and(|tls| tls.server_hostname.is_some()) {
            return Err(invalid("ssl_server_hostname is for RabbitMQ only".to_owned()));
        }
        let Parts { user, password, host_port, .. } = parts;
        let mut merged = parts.query;
        merged.extend(options.iter().map(|(key, value)| (key.clone(), value.clone())));
        let path = decode(parts.path).map_err(&invalid)?;
        let text = |key: &str| self::text(&merged, key);
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
            let (host, port) = (host.to_lowercase(), port.unwrap_or(DEFAULT_PORT));
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
        let credential = |given: &str, option: &str| -> Result<Option<String>> {
            let decoded = decode(given).map_err(&invalid)?;
            Ok(if decoded.is_empty() { text(option) } else { Some(decoded) })
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
            let made = read.client().unwrap();
            let info = made.get_connection_info();
            assert_eq!(info.redis_settings().db(), read.database, "{url}");
            assert!(info.tcp_settings().keepalive().is_some(), "{url}");
            #[cfg(target_os = "linux")]
            assert_eq!(info.tcp_settings().user_timeout(), Some(client::UNHEARD_OF), "{url}");
        }
    }
}
