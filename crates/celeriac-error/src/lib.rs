//! The errors of the core, and the codes by which JavaScript tells them apart.

use std::error::Error as StdError;

/// What every fallible function of the core returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The cause of an error, as another library reported it.
pub type Cause = Box<dyn StdError + Send + Sync>;

/// Everything that can go wrong in the core. Each variant has one frozen [`code`](Error::code).
///
/// Messages say what was asked, what went wrong and what to do. URLs in them have lost their password.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The URL names a scheme that no transport or result store registered.
    #[error("nothing handles `{scheme}://` as a {role}; known schemes are {known}")]
    UnknownScheme {
        /// What was being opened: `broker` or `result backend`.
        role: &'static str,
        /// The scheme of the URL.
        scheme: String,
        /// The schemes that are registered, separated by commas.
        known: String,
    },

    /// The URL, or an option in it, cannot be understood.
    #[error("cannot use the URL {url}: {reason}")]
    InvalidUrl {
        /// Without its password.
        url: String,
        /// What is wrong, and what would be right.
        reason: String,
    },

    /// An argument or option is of the wrong shape or out of range.
    #[error("{what}: {reason}")]
    InvalidArgument {
        /// The name of the argument or option.
        what: String,
        /// What is wrong, and what would be right.
        reason: String,
    },

    /// The broker refused the connection, went away, or did not answer in time.
    #[error("cannot reach the broker at {url}: {reason}")]
    BrokerUnavailable {
        /// Without its password.
        url: String,
        /// What the client library reported.
        reason: String,
    },

    /// The broker is there and cannot do what was asked at the moment: its memory is full, it is a read-only replica, its
    /// file is locked.
    #[error("the broker at {url} cannot do that now: {reason}")]
    BrokerNotReady {
        /// Without its password.
        url: String,
        /// What it answered, or what keeps it.
        reason: String,
    },

    /// The result store refused the connection, went away, or did not answer in time.
    #[error("cannot reach the result backend at {url}: {reason}")]
    ResultStoreUnavailable {
        /// Without its password.
        url: String,
        /// What the client library reported.
        reason: String,
    },

    /// As [`BrokerNotReady`](Self::BrokerNotReady).
    #[error("the result backend at {url} cannot do that now: {reason}")]
    ResultStoreNotReady {
        /// Without its password.
        url: String,
        /// What it answered, or what keeps it.
        reason: String,
    },

    /// The server is there and rejects the credentials.
    #[error("{url} refuses the user name or password: {reason}")]
    AuthenticationFailed {
        /// Without its password.
        url: String,
        /// What the server said.
        reason: String,
    },

    /// The server is there and refuses what was asked; asking again will not help.
    #[error("{url} refused: {reason}")]
    Refused {
        /// Without its password.
        url: String,
        /// What the server said.
        reason: String,
    },

    /// The broker did not take a message in time, after the retries that the publish policy allows.
    #[error("the message was not taken within {seconds} s: {reason}")]
    PublishTimeout {
        /// The time that was allowed, in seconds.
        seconds: f64,
        /// The last failure.
        reason: String,
    },

    /// No queue is bound to the exchange for this routing key, so the message would be lost.
    #[error("no queue is bound to exchange `{exchange}` with routing key `{routing_key}`")]
    Unroutable {
        /// The name of the exchange.
        exchange: String,
        /// The routing key of the message.
        routing_key: String,
    },

    /// A value has no form in the serializer that was asked for.
    #[error("cannot encode: {reason}")]
    Encode {
        /// Which value, and why.
        reason: String,
    },

    /// Bytes that are not what their content type says.
    #[error("cannot decode: {reason}")]
    Decode {
        /// What was found and where.
        reason: String,
    },

    /// Bytes that would become more than a limit allows, or nest deeper.
    #[error("cannot decode: {what} exceeds the limit `{limit}` of {allowed}")]
    LimitExceeded {
        /// The name of the limit.
        limit: &'static str,
        /// The most that is allowed, in the unit of the limit.
        allowed: usize,
        /// What was too much.
        what: String,
    },

    /// The content type of a message is not in `accept_content`.
    #[error("content type `{content_type}` is not accepted; accepted are {accepted}")]
    ContentDisallowed {
        /// The content type of the message.
        content_type: String,
        /// The accepted ones, separated by commas.
        accepted: String,
    },

    /// A message that is no task message, or whose fields have the wrong types.
    #[error("not a valid task message: {reason}")]
    InvalidTask {
        /// The field, and what is wrong with it.
        reason: String,
    },

    /// A signed message that is not to be trusted, or a key or certificate that cannot be used. Holds no key material.
    #[error("{reason}")]
    Security {
        /// Which of the checks failed.
        failure: SecurityFailure,
        /// What was found, and what would be right.
        reason: String,
    },

    /// What was asked does not exist on this transport or store.
    #[error("{what} is not supported by {by}")]
    NotSupported {
        /// The operation.
        what: String,
        /// The transport or store.
        by: String,
    },

    /// A call on something that was closed before.
    #[error("the {0} is closed")]
    Closed(&'static str),

    /// A bug in the core: an invariant that did not hold, or a panic that was caught.
    #[error("internal error: {0}")]
    Internal(String),
}

/// Which check of signing failed: a part of [`Error::Security`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SecurityFailure {
    /// The message has not the form of a signed one: no base64, or fields are missing.
    Malformed,
    /// The signature does not fit: the body was changed, or another key or digest made it.
    BadSignature,
    /// The certificate of the signer is not in the store.
    UnknownSigner,
    /// The certificate is past its time.
    Expired,
    /// The certificate's time has not come.
    NotYetValid,
    /// No certificate, or one that cannot be used: not RSA, a key of a wrong size.
    InvalidCertificate,
    /// Two certificates of the store have one id, or the store has none at all.
    InvalidStore,
    /// No private key, or one that cannot be used: not RSA, a key of a wrong size, not that of the certificate.
    InvalidKey,
    /// The private key is encrypted and there is no password, or a wrong one; or a password and nothing to decrypt.
    WrongPassword,
    /// The name of the digest is unknown.
    UnknownDigest,
}

impl Error {
    /// The `code` of this error in JavaScript. Public API: it never changes.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UnknownScheme { .. } => "ERR_CELERIAC_UNKNOWN_SCHEME",
            Self::InvalidUrl { .. } => "ERR_CELERIAC_INVALID_URL",
            Self::InvalidArgument { .. } => "ERR_CELERIAC_INVALID_ARGUMENT",
            Self::BrokerUnavailable { .. } | Self::BrokerNotReady { .. } => "ERR_CELERIAC_BROKER_UNAVAILABLE",
            Self::ResultStoreUnavailable { .. } | Self::ResultStoreNotReady { .. } => {
                "ERR_CELERIAC_RESULT_STORE_UNAVAILABLE"
            }
            Self::AuthenticationFailed { .. } => "ERR_CELERIAC_AUTHENTICATION_FAILED",
            Self::Refused { .. } => "ERR_CELERIAC_REFUSED",
            Self::PublishTimeout { .. } => "ERR_CELERIAC_PUBLISH_TIMEOUT",
            Self::Unroutable { .. } => "ERR_CELERIAC_UNROUTABLE",
            Self::Encode { .. } => "ERR_CELERIAC_ENCODE",
            Self::Decode { .. } | Self::LimitExceeded { .. } => "ERR_CELERIAC_DECODE",
            Self::ContentDisallowed { .. } => "ERR_CELERIAC_CONTENT_DISALLOWED",
            Self::InvalidTask { .. } => "ERR_CELERIAC_INVALID_TASK",
            Self::Security { .. } => "ERR_CELERIAC_SECURITY",
            Self::NotSupported { .. } => "ERR_CELERIAC_NOT_SUPPORTED",
            Self::Closed(_) => "ERR_CELERIAC_CLOSED",
            Self::Internal(_) => "ERR_CELERIAC_INTERNAL",
        }
    }

    /// Whether the same call may succeed later without a change on our side: the server was away, or not ready.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::BrokerUnavailable { .. }
                | Self::BrokerNotReady { .. }
                | Self::ResultStoreUnavailable { .. }
                | Self::ResultStoreNotReady { .. }
        )
    }
}

/// Every code that [`Error::code`] can return, sorted. JavaScript's list is tested against it.
pub const CODES: &[&str] = &[
    "ERR_CELERIAC_AUTHENTICATION_FAILED",
    "ERR_CELERIAC_BROKER_UNAVAILABLE",
    "ERR_CELERIAC_CLOSED",
    "ERR_CELERIAC_CONTENT_DISALLOWED",
    "ERR_CELERIAC_DECODE",
    "ERR_CELERIAC_ENCODE",
    "ERR_CELERIAC_INTERNAL",
    "ERR_CELERIAC_INVALID_ARGUMENT",
    "ERR_CELERIAC_INVALID_TASK",
    "ERR_CELERIAC_INVALID_URL",
    "ERR_CELERIAC_NOT_SUPPORTED",
    "ERR_CELERIAC_PUBLISH_TIMEOUT",
    "ERR_CELERIAC_REFUSED",
    "ERR_CELERIAC_RESULT_STORE_UNAVAILABLE",
    "ERR_CELERIAC_SECURITY",
    "ERR_CELERIAC_UNKNOWN_SCHEME",
    "ERR_CELERIAC_UNROUTABLE",
];
