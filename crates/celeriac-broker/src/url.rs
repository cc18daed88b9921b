//! What all broker and result URLs share.

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

/// The host where a URL names none.
pub const DEFAULT_HOST: &str = "localhost";

/// The part before `://`, in lower case as Celery writes it; for `sqla+sqlite:///f` that is `sqla+sqlite`. Empty when
/// there is none.
pub fn scheme(url: &str) -> &str {
    url.split_once("://").map_or("", |(scheme, _)| scheme)
}

/// The URL with its password as `**`, as Celery prints it (`kombu.utils.url.maybe_sanitize_url`).
pub fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let Some(at) = rest[..end].rfind('@').or_else(|| end_of_credentials(rest, end)) else {
        return url.to_owned();
    };
    let user = rest[..at].split_once(':').map_or(&rest[..at], |(user, _)| user);
    let secret = if rest[..at].contains(':') { ":**" } else { "" };
    format!("{scheme}://{user}{secret}{}", &rest[at..])
}

/// Where credentials end whose password has a slash that is not encoded: what stands before it is no host and port.
fn end_of_credentials(rest: &str, end: usize) -> Option<usize> {
    let (_, port) = rest[..end].split_once(':')?;
    if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    rest.rfind('@')
}

/// The URL without its password, and without its query, which may name one too.
pub(crate) fn masked(url: &str) -> String {
    let masked = without_password(url);
    masked.split(['?', '#']).next().unwrap_or_default().to_owned()
}

/// The parts of a server's URL as they are written (`kombu.utils.url.url_to_parts`).
pub(crate) struct Parts<'a> {
    /// In lower case.
    pub(crate) scheme: String,
    pub(crate) user: &'a str,
    pub(crate) password: &'a str,
    /// For [`host_and_port`].
    pub(crate) host_port: &'a str,
    /// Without the slash before it.
    pub(crate) path: &'a str,
    /// The query, decoded; every value is text.
    pub(crate) query: Map<String, Value>,
}

impl<'a> Parts<'a> {
    pub(crate) fn of(url: &'a str) -> Self {
        let rest = url.split_once("://").map_or("", |(_, rest)| rest);
        let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, host_port) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
        let query = ::url::form_urlencoded::parse(query.as_bytes())
            .map(|(key, value)| (key.into_owned(), Value::String(value.into_owned())))
            .collect();
        Self { scheme: scheme(url).to_ascii_lowercase(), user, password, host_port, path, query }
    }
}

/// What is written with %-escapes.
pub(crate) fn decode(text: &str) -> Result<String, String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(std::borrow::Cow::into_owned).map_err(|_| "a %-escape in it is not UTF-8".to_owned())
}

/// The host, without the brackets of an IPv6 address, and the port where there is one.
pub(crate) fn host_and_port(text: &str) -> Result<(String, Option<u16>), String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(inside) => {
            let (host, after) = inside.split_once(']').ok_or("an IPv6 address must end with `]`")?;
            (host, after.strip_prefix(':').unwrap_or(after))
        }
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let host = decode(host)?;
    let port = match port {
        "" => None,
        port => {
            match port.parse::<u16>() {
                Ok(port @ 1..) => Some(port),
                _ if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                    return Err(format!("the port must be a number from 1 to 65535, not `{port}`"));
                }
                // It may be a part of the password.
                _ => {
                    return Err("the port must be a number from 1 to 65535; in a user name and a password `/`, `?`, `#` \
                            and `@` are to be percent-encoded"
                    .to_owned());
                }
            }
        }
    };
    Ok((if host.is_empty() { DEFAULT_HOST.to_owned() } else { host }, port))
}

/// An option as text; numbers and booleans are written out. `None` when absent, null or empty.
pub(crate) fn text(options: &Map<String, Value>, name: &str) -> Option<String> {
    match options.get(name)? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

/// An option in seconds, of which there may be parts. `None` when absent, null or empty.
pub(crate) fn seconds(options: &Map<String, Value>, name: &str) -> Result<Option<f64>, String> {
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

    #[test]
    fn a_password_is_masked_wherever_it_stands() {
        assert_eq!(without_password("redis://:secret@host/1"), "redis://:**@host/1");
        assert_eq!(without_password("redis://me:s@cret@host"), "redis://me:**@host");
        assert_eq!(without_password("amqp://me:s/cr?t@host//"), "amqp://me:**@host//");
        assert_eq!(without_password("redis://host:6379/a@b"), "redis://host:6379/a@b");
        assert_eq!(without_password("redis://host:6379/0"), "redis://host:6379/0");
        assert_eq!(without_password("sqla+sqlite:///a@b:c.db"), "sqla+sqlite:///a@b:c.db");
    }

    #[test]
    fn the_scheme_is_what_stands_before_the_slashes() {
        assert_eq!(scheme("sqla+sqlite:///celeriac.db"), "sqla+sqlite");
        assert_eq!(scheme("localhost"), "");
    }
}
