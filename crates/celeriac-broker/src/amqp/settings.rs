//! What the URLs and the options of kombu's AMQP transport say.
//!
//! Source of the rules: `kombu.utils.url.url_to_parts`, `kombu.connection.Connection`, `kombu.transport.pyamqp`.

use std::time::Duration;

use celeriac_error::{Error, Result};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use super::tls::{Tls, TlsSettings};
use crate::registry::TransportOptions;
use crate::url::{scheme, without_password};

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
    let kind = scheme(url).to_ascii_lowercase();
    if !super::SCHEMES.contains(&kind.as_str()) {
        let reason =
            format!("all URLs of one broker must have one of the schemes {}", super::SCHEMES.join(", "));
        return Err(invalid(reason));
    }
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (credentials, host_port) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));

    let mut options = Map::new();
    for (key, value) in ::url::form_urlencoded::parse(query.as_bytes()) {
        options.insert(key.into_owned(), Value::String(value.into_owned()));
    }
    options.extend(given.options.iter().map(|(key, value)| (key.clone(), value.clone())));

    let tls = tls(kind == "amqps", &options).map_err(&invalid)?;
    let (host, port) = host_and_port(host_port).map_err(&invalid)?;
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

/// Without its password, and without its query, which may name one too.
fn masked(url: &str) -> String {
    let masked = without_password(url);
    masked.split(['?', '#']).next().unwrap_or_default().to_owned()
}

fn decode(text: &str) -> Result<String, String> {
    let text = percent_decode_str(text).decode_utf8();
    text.map(std::borrow::Cow::into_owned).map_err(|_| "it has bytes that are not UTF-8".to_owned())
}

fn host_and_port(text: &str) -> Result<(String, Option<u16>), String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or("the bracket of the IPv6 address is not closed")?;
            (host, rest.strip_prefix(':').unwrap_or(rest))
        }
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let host = decode(host)?;
    let port = match port {
        "" => None,
        port => match port.parse::<u16>() {
            Ok(port @ 1..) => Some(port),
            _ => return Err(format!("the port must be a number from 1 to 65535, not `{port}`")),
        },
    };
    Ok((if host.is_empty() { "localhost".to_owned() } else { host }, port))
}

/// `broker_use_ssl` is the option `ssl`: true, or an object; in a query its parts are called `ssl_…`.
fn tls(encrypted: bool, options: &Map<String, Value>) -> Result<Option<TlsSettings>, String> {
    let (encrypted, given) = match options.get("ssl") {
        Some(Value::Object(given)) => (true, given.clone()),
        Some(Value::Bool(wanted)) => (encrypted || *wanted, Map::new()),
        Some(Value::String(text)) => {
            (encrypted || matches!(text.to_lowercase().as_str(), "true" | "1"), Map::new())
        }
        _ => (encrypted, Map::new()),
    };
    // With kombu's prefix or without.
    let part = |name: &str| {
        let prefixed = format!("ssl_{name}");
        text(&given, name).or_else(|| text(&given, &prefixed)).or_else(|| text(options, &prefixed))
    };
    if !encrypted {
        for name in ["ca_certs", "certfile", "keyfile", "cert_reqs", "check_hostname"] {
            if part(name).is_some() {
                return Err(format!("`ssl_{name}` needs an encrypted connection: write amqps://"));
            }
        }
        return Ok(None);
    }
    let verify = match part("cert_reqs").map(|text| text.to_ascii_lowercase()).as_deref() {
        // 0, 1 and 2 are Python's constants.
        None | Some("cert_required" | "required" | "2" | "cert_optional" | "optional" | "1") => true,
        Some("cert_none" | "none" | "0") => false,
        Some(other) => return Err(format!("cert_reqs must be required, optional or none, not `{other}`")),
    };
    let check_hostname = match part("check_hostname").map(|text| text.to_ascii_lowercase()).as_deref() {
        None | Some("true" | "1") => true,
        Some("false" | "0") => false,
        Some(other) => return Err(format!("check_hostname must be true or false, not `{other}`")),
    };
    let certfile = part("certfile");
    if certfile.is_none() && part("keyfile").is_some() {
        return Err("keyfile is the key of certfile, which is not given".to_owned());
    }
    Ok(Some(TlsSettings {
        verify,
        check_hostname,
        ca_certs: part("ca_certs"),
        keyfile: part("keyfile").or_else(|| certfile.clone()),
        certfile,
        server_hostname: part("server_hostname"),
    }))
}

/// As text; numbers and booleans are written out. `None` when absent, null or empty.
fn text(options: &Map<String, Value>, name: &str) -> Option<String> {
    match options.get(name)? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

fn seconds(options: &Map<String, Value>, name: &str) -> Result<Option<f64>, String> {
    text(options, name)
        .map(|text| {
            let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
            number.ok_or_else(|| format!("{name} must be a number of seconds, not `{text}`"))
        })
        .transpose()
}

#[cfg(test)]
mod tests {
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
    fn tls_verifies_unless_told_otherwise() {
        let tls = |encrypted, options: Value| tls(encrypted, options.as_object().unwrap());
        assert_eq!(tls(false, serde_json::json!({})), Ok(None));
        let verified = tls(true, serde_json::json!({})).unwrap().unwrap();
        assert!(verified.verify && verified.check_hostname);
        let verified = tls(false, serde_json::json!({ "ssl": true })).unwrap().unwrap();
        assert!(verified.verify);
        let given = serde_json::json!({ "ssl": { "cert_reqs": 0, "ca_certs": "ca", "certfile": "c" } });
        let given = tls(false, given).unwrap().unwrap();
        assert!(!given.verify);
        assert_eq!((given.ca_certs.as_deref(), given.keyfile.as_deref()), (Some("ca"), Some("c")));
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
