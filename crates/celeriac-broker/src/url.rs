//! What all broker and result URLs share.

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
