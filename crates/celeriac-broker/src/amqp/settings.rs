//! What the URLs and the options of kombu's AMQP transport say.
//!
//! Source of the rules: `kombu.utils.url.url_to_parts`, `kombu.connection.Connection`, `kombu.transport.pyamqp`.

use std::time::Duration;

use crate::registry::TransportOptions;
use crate::tls::{Tls, TlsSettings};
use crate::url::{Parts, decode, host_and_port, masked, scheme, seconds, text};
use celeriac_error::{Error, Result};

/// `broker_heartbeat` of Celery: seconds.
const HEARTBEAT: u16 = 120;

/// One server that can be connected to.
pub(super) struct Target {
    /// Its URL without the password.
    pub(super) url: String,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) password: String,
    pub(super) vhost: String,
    pub(super) login_method: LoginMethod,
    /// Where the connection is encrypted.
    pub(super) tls: Option<Tls>,
    /// In seconds; 0 is what the server suggests.
    pub(super) heartbeat: u16,
    pub(super) connect_timeout: Duration,
}

/// How the user is told (`broker_login_method`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoginMethod {
    /// User and password.
    Plain,
    /// The same, in a table.
    AmqPlain,
    /// By the client's certificate.
    External,
}

/// In which order the servers are tried (`broker_failover_strategy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failover {
    /// One after the other; the default.
    RoundRobin,
    /// By chance, after the first.
    Shuffle,
}

/// Everything that stays the same for the life of a transport.
pub(super) struct Settings {
    /// All URLs without their passwords.
    pub(super) url: String,
    /// At least one.
    pub(super) targets: Vec<Target>,
    pub(super) failover: Failover,
}

impl Settings {
    pub(super) fn new(broker_url: &str, given: &TransportOptions) -> Result<Self> {
        let urls: Vec<&str> = broker_url.split(';').map(str::trim).filter(|url| !url.is_empty()).collect();
        let scheme = scheme(urls.first().copied().unwrap_or_default()).to_ascii_lowercase();
        let urls: Vec<String> = urls
            .into_iter()
            .map(|url| if url.contains("://") { url.to_owned() } else { format!("{scheme}://{url}") })
            .collect();
        let targets: Vec<Target> = urls.iter().map(|url| target(url, given)).collect::<Result<_>>()?;
        let url = targets.iter().map(|target| target.url.as_str()).collect::<Vec<_>>().join(";");
        let failover = match text(&given.options, "failover_strategy").as_deref() {
            None | Some("round-robin") => Failover::RoundRobin,
            Some("shuffle") => Failover::Shuffle,
            Some(other) => {
                let reason = format!("failover_strategy must be round-robin or shuffle, not `{other}`");
                return Err(Error::InvalidUrl { url, reason });
            }
        };
        Ok(Self { url, targets, failover })
    }
}

fn target(url: &str, given: &TransportOptions) -> Result<Target> {
    let masked = masked(url);
    let invalid = |reason: String| Error::InvalidUrl { url: masked.clone(), reason };
    let parts = Parts::of(url);
    if !super::SCHEMES.contains(&parts.scheme.as_str()) {
        let reason =
            format!("all URLs of one broker must have one of the schemes {}", super::SCHEMES.join(", "));
        return Err(invalid(reason));
    }
    let tls = TlsSettings::read(parts.scheme == "amqps", "amqps", &parts.query, &given.options);
    let tls = tls.map_err(&invalid)?;
    let Parts { user, password, path, .. } = parts;
    let (host, port) = host_and_port(parts.host_port).map_err(&invalid)?;
    let mut options = parts.query;
    options.extend(given.options.iter().map(|(key, value)| (key.clone(), value.clone())));
    let decoded = |text: &str, name: &str, default: &str| -> Result<String> {
        let text = decode(text).map_err(&invalid)?;
        Ok(if text.is_empty() {
            self::text(&options, name).unwrap_or_else(|| default.to_owned())
        } else {
            text
        })
    };
    let login_method = match text(&options, "login_method").map(|text| text.to_ascii_uppercase()).as_deref() {
        None | Some("PLAIN") => LoginMethod::Plain,
        Some("AMQPLAIN") => LoginMethod::AmqPlain,
        Some("EXTERNAL") => LoginMethod::External,
        Some(other) => {
            return Err(invalid(format!("login_method must be PLAIN, AMQPLAIN or EXTERNAL, not `{other}`")));
        }
    };
    let heartbeat = match seconds(&options, "heartbeat").map_err(&invalid)? {
        None => seconds(&options, "default_heartbeat").map_err(&invalid)?,
        heartbeat => heartbeat,
    };
    let heartbeat = match heartbeat {
        None => HEARTBEAT,
        Some(seconds) if seconds <= f64::from(u16::MAX) => seconds.ceil() as u16,
        Some(seconds) => {
            return Err(invalid(format!("heartbeat must be at most 65535 seconds, not {seconds}")));
        }
    };
    let timeout = match seconds(&options, "connect_timeout").map_err(&invalid)? {
        None => seconds(&options, "connection_timeout").map_err(&invalid)?,
        timeout => timeout,
    };
    let connect_timeout = match timeout {
        None => given.connect_timeout,
        Some(seconds) => Duration::try_from_secs_f64(seconds)
            .ok()
            .filter(|timeout| !timeout.is_zero())
            .ok_or_else(|| invalid(format!("connect_timeout must be above zero, not {seconds}")))?,
    };
    Ok(Target {
        host,
        port: port.unwrap_or(if tls.is_some() { 5671 } else { 5672 }),
        user: decoded(user, "userid", "guest")?,
        password: decoded(password, "password", "guest")?,
        vhost: decoded(path, "virtual_host", "/")?,
        login_method,
        tls: tls.map(|settings| Tls::new(&masked, settings)).transpose()?,
        heartbeat,
        connect_timeout,
        url: masked,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn open(url: &str, options: &Value) -> Result<Settings> {
        let options = options.as_object().cloned().unwrap_or_default();
        Settings::new(url, &TransportOptions { options, ..TransportOptions::default() })
    }

    fn one(url: &str) -> Target {
        open(url, &Value::Null).unwrap().targets.remove(0)
    }

    #[test]
    fn everything_has_kombus_default() {
        let target = one("amqp://");
        assert_eq!((target.host.as_str(), target.port), ("localhost", 5672));
        assert_eq!((target.user.as_str(), target.password.as_str()), ("guest", "guest"));
        assert_eq!((target.vhost.as_str(), target.heartbeat), ("/", 120));
        assert!(target.tls.is_none());
        assert_eq!(target.login_method, LoginMethod::Plain);
        assert_eq!(one("amqps://h").port, 5671);
    }

    #[test]
    fn the_vhost_is_read_as_kombu_does() {
        for (url, vhost) in [
            ("amqp://h", "/"),
            ("amqp://h/", "/"),
            ("amqp://h//", "/"),
            ("amqp://h/%2F", "/"),
            ("amqp://h/%2f", "/"),
            ("amqp://h/mine", "mine"),
            ("amqp://h//mine", "/mine"),
            ("pyamqp://h/a%20b", "a b"),
            ("librabbitmq://h/mine", "mine"),
        ] {
            assert_eq!(one(url).vhost, vhost, "{url}");
        }
    }

    #[test]
    fn names_and_words_are_decoded_and_words_are_masked() {
        let settings =
            open("amqp://me%40x:p%3Aw@rabbit:7/v?heartbeat=9&connection_timeout=1.5", &Value::Null).unwrap();
        let target = &settings.targets[0];
        assert_eq!((target.user.as_str(), target.password.as_str()), ("me@x", "p:w"));
        assert_eq!((target.host.as_str(), target.port, target.heartbeat), ("rabbit", 7, 9));
        assert_eq!(target.connect_timeout, Duration::from_millis(1500));
        assert_eq!(settings.url, "amqp://me%40x:**@rabbit:7/v");
        assert_eq!(one("amqp://[::1]:7/v").host, "::1");
    }

    #[test]
    fn several_urls_are_one_broker() {
        let shuffled = serde_json::json!({ "failover_strategy": "shuffle" });
        let settings = open("amqp://a:b@one;amqp://two//;three", &shuffled).unwrap();
        let hosts: Vec<&str> = settings.targets.iter().map(|target| target.host.as_str()).collect();
        assert_eq!(hosts, ["one", "two", "three"]);
        assert_eq!(settings.failover, Failover::Shuffle);
        assert_eq!(settings.url, "amqp://a:**@one;amqp://two//;amqp://three");
    }

    #[test]
    fn options_win_over_the_query() {
        let settings =
            open("amqp://h?heartbeat=9", &serde_json::json!({ "heartbeat": 0, "login_method": "AMQPLAIN" }));
        let target = settings.unwrap().targets.remove(0);
        assert_eq!((target.heartbeat, target.login_method), (0, LoginMethod::AmqPlain));
    }

    #[test]
    fn the_heartbeat_of_the_query_wins_over_the_setting() {
        let heartbeat = |url: &str, options: Value| open(url, &options).unwrap().targets[0].heartbeat;
        let setting = || serde_json::json!({ "default_heartbeat": 30 });
        assert_eq!(heartbeat("amqp://h?heartbeat=9", setting()), 9);
        assert_eq!(heartbeat("amqp://h", setting()), 30);
        assert_eq!(heartbeat("amqp://h", Value::Null), 120);
    }

    #[test]
    fn a_wrong_option_is_named() {
        for (url, word) in [
            ("amqp://h:0", "port"),
            ("amqp://h:99999", "port"),
            ("amqp://h?heartbeat=soon", "heartbeat"),
            ("amqp://h?heartbeat=70000", "heartbeat"),
            ("amqp://h?connect_timeout=0", "connect_timeout"),
            ("amqp://h?login_method=magic", "login_method"),
            ("amqp://h?ssl_ca_certs=x", "amqps"),
            ("amqps://h?ssl_cert_reqs=maybe", "cert_reqs"),
            ("amqps://h?ssl_keyfile=k", "certfile"),
            ("amqp://h;redis://h", "schemes"),
        ] {
            let error = open(url, &Value::Null).err().unwrap();
            assert_eq!(error.code(), "ERR_CELERIAC_INVALID_URL", "{url}");
            assert!(error.to_string().contains(word), "{error}");
        }
        let error = open("amqp://h", &serde_json::json!({ "failover_strategy": "x" })).err().unwrap();
        assert!(error.to_string().contains("failover_strategy"), "{error}");
    }
}
