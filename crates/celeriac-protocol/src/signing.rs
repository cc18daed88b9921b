//! Signed messages: Celery's serializer `auth`, and the keys and certificates for it.
//!
//! A signed body is the body of another serializer with a signature of it, made with RSA by the scheme PSS (MGF1 with the
//! same digest, a salt as long as the key allows). Five fields, joined by the bytes 0 and 1, base64 of the whole:
//! base64 of the signer's id, base64 of the signature, the inner content type, the inner encoding, the body.
//!
//! Only the body is signed. Neither the headers, such as the task's name, nor the inner content type are, as
//! docs/security.md says; so the caller has to check the inner content type against those that it accepts.
//!
//! The source of the rules: `celery.security`. The choice of libraries: docs/decisions/0014.

mod certificate;
mod digest;
mod key;
mod pem;
mod store;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use celeriac_error::{Error, Result, SecurityFailure};
use jiff::Timestamp;
use memchr::memmem;

pub use certificate::Certificate;
pub use digest::Digest;
pub use key::PrivateKey;
pub use store::CertificateStore;

/// The name of the serializer.
pub const NAME: &str = "auth";

/// The content type of a signed message.
pub const CONTENT_TYPE: &str = "application/data";

/// The content encoding of a signed message.
pub const CONTENT_ENCODING: &str = "utf-8";

/// What stands between the fields. Base64 and content types never contain it; the body, which comes last, may.
const SEPARATOR: &[u8] = b"\0\x01";

/// What one serializer made of a value: what is signed, and how to read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content<'a> {
    /// MIME type of the body, such as `application/json`. Not protected by the signature.
    pub content_type: &'a str,
    /// Character set of the body, `utf-8` or `binary`. Not protected by the signature.
    pub content_encoding: &'a str,
    /// The serialized value.
    pub body: &'a [u8],
}

/// A message whose signature fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The id of the certificate whose key signed it.
    pub signer: String,
    /// What the message says of its body: to be held against the accepted types before it is read.
    pub content_type: String,
    /// `utf-8` or `binary`, as the message says.
    pub content_encoding: String,
    /// The serialized value.
    pub body: Vec<u8>,
}

/// Signs messages with one key.
#[derive(Debug)]
pub struct Signer {
    key: PrivateKey,
    id: String,
    digest: Digest,
}

impl Signer {
    /// A signer whose messages name this certificate.
    ///
    /// # Errors
    /// [`SecurityFailure::InvalidKey`] when the key is not that of the certificate: nobody could verify what it signs.
    /// (Celery does not look.)
    pub fn new(key: PrivateKey, certificate: &Certificate, digest: Digest) -> Result<Self> {
        if !key.is_key_of(certificate) {
            let reason = format!("the private key is not that of the certificate {:?}", certificate.id());
            return Err(refused(SecurityFailure::InvalidKey, reason));
        }
        Ok(Self { key, id: certificate.id().to_owned(), digest })
    }

    /// The id that the messages carry: that of the certificate.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Signs; gives the whole body of the message, which is ASCII. It takes about 1.6 ms for a key of 2048 bits, whatever
    /// the length, so it does not belong on a thread that others wait for.
    ///
    /// # Errors
    /// [`Error::Encode`] when the content type or encoding has a byte 0; [`Error::Internal`] when the system has no
    /// random numbers.
    pub fn sign(&self, content: &Content<'_>) -> Result<Vec<u8>> {
        if content.content_type.contains('\0') || content.content_encoding.contains('\0') {
            return Err(Error::Encode { reason: "a content type or encoding with a byte 0".to_owned() });
        }
        let signature = self.key.sign(content.body, self.digest)?;
        let fields = [
            STANDARD.encode(&self.id).as_bytes(),
            STANDARD.encode(signature).as_bytes(),
            content.content_type.as_bytes(),
            content.content_encoding.as_bytes(),
            content.body,
        ]
        .join(SEPARATOR);
        Ok(STANDARD.encode(fields).into_bytes())
    }
}

/// Verifies messages against the certificates of a store.
#[derive(Debug)]
pub struct Verifier {
    store: CertificateStore,
    digest: Digest,
}

impl Verifier {
    /// A verifier; the digest is that of the signers, because messages do not name it.
    pub fn new(store: CertificateStore, digest: Digest) -> Self {
        Self { store, digest }
    }

    /// The certificates that are trusted.
    pub fn store(&self) -> &CertificateStore {
        &self.store
    }

    /// Reads the body of a signed message of at most `limit` bytes, and gives its content when the signer is known, the
    /// certificate valid at `now`, and the signature that of this body.
    ///
    /// # Errors
    /// [`Error::LimitExceeded`], or [`Error::Security`] with [`Malformed`](SecurityFailure::Malformed),
    /// [`UnknownSigner`](SecurityFailure::UnknownSigner), [`Expired`](SecurityFailure::Expired),
    /// [`NotYetValid`](SecurityFailure::NotYetValid) (which Celery accepts) or
    /// [`BadSignature`](SecurityFailure::BadSignature).
    pub fn verify(&self, message: &[u8], now: Timestamp, limit: usize) -> Result<Verified> {
        if message.len() > limit {
            let what = format!("a signed message of {} bytes", message.len());
            return Err(Error::LimitExceeded { limit: "bytes", allowed: limit, what });
        }
        let fields = decode_base64(message, "the message")?;
        let parts = split(&fields).ok_or_else(|| malformed("it has fewer than five fields"))?;
        let signer = text(decode_base64(parts.signer, "the signer's id")?, "the signer's id")?;
        let signature = decode_base64(parts.signature, "the signature")?;
        let certificate = self.store.get(&signer)?;
        certificate.check_time(now)?;
        certificate.verify(parts.body, &signature, self.digest)?;
        Ok(Verified {
            content_type: text(parts.content_type.to_vec(), "the content type")?,
            content_encoding: text(parts.content_encoding.to_vec(), "the content encoding")?,
            body: parts.body.to_vec(),
            signer,
        })
    }
}

struct Fields<'a> {
    signer: &'a [u8],
    signature: &'a [u8],
    content_type: &'a [u8],
    content_encoding: &'a [u8],
    body: &'a [u8],
}

/// The fields: four separators count, any further one belongs to the body.
fn split(fields: &[u8]) -> Option<Fields<'_>> {
    let mut rest = fields;
    let mut next = || {
        let end = memmem::find(rest, SEPARATOR)?;
        let field = &rest[..end];
        rest = &rest[end + SEPARATOR.len()..];
        Some(field)
    };
    let (signer, signature, content_type, content_encoding) = (next()?, next()?, next()?, next()?);
    Some(Fields { signer, signature, content_type, content_encoding, body: rest })
}

fn decode_base64(bytes: &[u8], what: &str) -> Result<Vec<u8>> {
    STANDARD.decode(bytes).map_err(|error| malformed(&format!("{what} is no base64: {error}")))
}

fn text(bytes: Vec<u8>, what: &str) -> Result<String> {
    String::from_utf8(bytes).map_err(|_| malformed(&format!("{what} is no text")))
}

fn malformed(reason: &str) -> Error {
    refused(SecurityFailure::Malformed, format!("not a signed message: {reason}"))
}

fn refused(failure: SecurityFailure, reason: impl Into<String>) -> Error {
    Error::Security { failure, reason: reason.into() }
}
