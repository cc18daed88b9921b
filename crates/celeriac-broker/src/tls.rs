//! Encrypted connections: what `broker_use_ssl`, `redis_backend_use_ssl` and the query of a URL say of them.

mod config;

use std::path::PathBuf;

use serde_json::{Map, Value};

pub(crate) use self::config::Tls;
use crate::url::text;

/// What can be said, as it is called in a query.
const OPTIONS: [&str; 6] = [
    "ssl_cert_reqs",
    "ssl_ca_certs",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_check_hostname",
    "ssl_server_hostname",
];

/// How the server's certificate is checked, and which one is shown to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// `ssl_cert_reqs`: false for `CERT_NONE`. `CERT_OPTIONAL` checks too, as it does in Python's clients.
    pub verify: bool,
    /// `ssl_check_hostname`: whether the certificate must be of the host that was asked for.
    pub check_hostname: bool,
    /// `ssl_ca_certs`: a PEM file of authorities that replaces those that are known anyway.
    pub ca_certs: Option<PathBuf>,
    /// `ssl_certfile`: the client's certificate chain as PEM.
    pub certfile: Option<PathBuf>,
    /// `ssl_keyfile`: the key of `certfile`, in the same file unless given.
    pub keyfile: Option<PathBuf>,
    /// `ssl_server_hostname`: the name that the certificate must have, where it is not the host's.
    pub server_hostname: Option<String>,
}

impl TlsSettings {
    /// What a URL and the options beside it say, which win; `None` where the connection is not encrypted. It is by `secure`, the
    /// URL's scheme, by the option `ssl` (true, or an object with the names above, with `ssl_` or without), and by any `ssl_…`
    /// beside the URL.
    ///
    /// # Errors
    /// Says what is wrong. `encrypted` is the scheme that one would have to write.
    pub(crate) fn read(
        secure: bool,
        encrypted: &str,
        query: &Map<String, Value>,
        given: &Map<String, Value>,
    ) -> Result<Option<Self>, String> {
        let all = || query.get("ssl").into_iter().chain(given.get("ssl")).last();
        let (wanted, parts) = match all() {
            Some(Value::Object(parts)) => (true, Some(parts)),
            Some(Value::Bool(wanted)) => (*wanted, None),
            Some(Value::String(text)) => (matches!(text.to_lowercase().as_str(), "true" | "1"), None),
            _ => (false, None),
        };
        for name in parts.into_iter().flat_map(Map::keys) {
            let is_it = |option: &&str| *option == name || option.strip_prefix("ssl_") == Some(name);
            if !OPTIONS.iter().any(is_it) {
                return Err(format!("there is no TLS option `{name}`; there are {}", OPTIONS.join(", ")));
            }
        }
        if !secure && !wanted && !OPTIONS.iter().any(|option| given.contains_key(*option)) {
            return match OPTIONS.iter().find(|option| text(query, option).is_some()) {
                Some(option) => {
                    Err(format!("`{option}` needs an encrypted connection: write {encrypted}://"))
                }
                None => Ok(None),
            };
        }
        let part = |name: &str| {
            let prefixed = format!("ssl_{name}");
            let inside = parts.and_then(|parts| text(parts, name).or_else(|| text(parts, &prefixed)));
            inside.or_else(|| text(given, &prefixed)).or_else(|| text(query, &prefixed))
        };
        let verify = match part("cert_reqs").map(|text| text.to_ascii_lowercase()).as_deref() {
            // The numbers are those of Python's ssl module.
            None | Some("cert_required" | "required" | "2" | "cert_optional" | "optional" | "1") => true,
            Some("cert_none" | "none" | "0") => false,
            Some(other) => {
                return Err(format!(
                    "ssl_cert_reqs must be CERT_REQUIRED (the default), CERT_OPTIONAL or CERT_NONE, not `{other}`"
                ));
            }
        };
        let check_hostname = match part("check_hostname").map(|text| text.to_ascii_lowercase()).as_deref() {
            None | Some("true" | "1") => true,
            Some("false" | "0") => false,
            Some(other) => return Err(format!("ssl_check_hostname must be true or false, not `{other}`")),
        };
        let file = |name: &str| part(name).map(PathBuf::from);
        let certfile = file("certfile");
        let keyfile = file("keyfile");
        if certfile.is_none() && keyfile.is_some() {
            return Err("ssl_keyfile is the key of ssl_certfile, which is not given".to_owned());
        }
        Ok(Some(Self {
            verify,
            check_hostname,
            ca_certs: file("ca_certs"),
            keyfile: keyfile.or_else(|| certfile.clone()),
            certfile,
            server_hostname: part("server_hostname"),
        }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(secure: bool, query: &Value, given: &Value) -> Result<Option<TlsSettings>, String> {
        TlsSettings::read(secure, "rediss", query.as_object().unwrap(), given.as_object().unwrap())
    }

    fn settings(query: &Value, given: &Value) -> TlsSettings {
        read(false, query, given).unwrap().unwrap()
    }

    #[test]
    fn a_connection_is_encrypted_by_its_scheme_or_by_an_option() {
        let nothing = json!({});
        assert_eq!(read(false, &nothing, &nothing), Ok(None));
        let verified = read(true, &nothing, &nothing).unwrap().unwrap();
        assert!(verified.verify && verified.check_hostname);
        for given in [json!({ "ssl": true }), json!({ "ssl": {} }), json!({ "ssl_ca_certs": "ca" })] {
            assert!(settings(&nothing, &given).verify, "{given}");
        }
        assert!(settings(&json!({ "ssl": "true" }), &nothing).verify);
        for given in [json!({ "ssl": false }), json!({ "ssl": null })] {
            assert_eq!(read(false, &nothing, &given), Ok(None), "{given}");
        }
        // What stands beside the URL wins.
        assert_eq!(read(false, &json!({ "ssl": "true" }), &json!({ "ssl": false })), Ok(None));
    }

    #[test]
    fn options_have_kombus_prefix_or_none_and_win_over_the_query() {
        for ssl in [json!({ "certfile": "c" }), json!({ "ssl_certfile": "c" })] {
            let read = settings(&json!({ "ssl_certfile": "q" }), &json!({ "ssl": ssl }));
            assert_eq!((read.certfile, read.keyfile), (Some("c".into()), Some("c".into())));
        }
        let query = json!({ "ssl_cert_reqs": "CERT_NONE", "ssl_check_hostname": "false" });
        let read = settings(&query, &json!({ "ssl": true }));
        assert!(!read.verify && !read.check_hostname);
        assert!(settings(&query, &json!({ "ssl_cert_reqs": 2 })).verify);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let nothing = json!({});
        for (query, given, word) in [
            (json!({ "ssl_ca_certs": "ca" }), nothing.clone(), "rediss://"),
            (nothing.clone(), json!({ "ssl": { "certificate": "c" } }), "`certificate`"),
            (nothing.clone(), json!({ "ssl_cert_reqs": "maybe" }), "`maybe`"),
            (nothing.clone(), json!({ "ssl_check_hostname": "maybe" }), "`maybe`"),
            (nothing, json!({ "ssl": { "keyfile": "k" } }), "ssl_certfile"),
        ] {
            let error = read(false, &query, &given).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
