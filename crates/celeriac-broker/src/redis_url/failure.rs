//! What went wrong on the way to a server, or in it.

use std::time::Duration;

use ::redis::{ErrorKind, RedisError};
use celeriac_error::Error;

use super::RedisUrl;

/// For whom an error is meant: it decides between [`Error::BrokerUnavailable`] and
/// [`Error::ResultStoreUnavailable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedisRole {
    /// A transport.
    Broker,
    /// A result store.
    ResultStore,
}

impl RedisUrl {
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
