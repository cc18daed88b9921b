//! The digests that a signature can be made over.

use celeriac_error::{Result, SecurityFailure};
use rsa::traits::{PublicKeyParts as _, SignatureScheme as _};
use rsa::{Pss, RsaPrivateKey, RsaPublicKey};
use sha2::digest::{self, FixedOutputReset};

use super::refused;

/// The name of a digest, as the setting `security_digest` has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Digest {
    /// `sha1`: broken, for signers that have nothing else.
    Sha1,
    /// `sha224`.
    Sha224,
    /// `sha256`, the default.
    #[default]
    Sha256,
    /// `sha384`.
    Sha384,
    /// `sha512`.
    Sha512,
    /// `sha512_224`.
    Sha512To224,
    /// `sha512_256`.
    Sha512To256,
    /// `sha3_224`.
    Sha3To224,
    /// `sha3_256`.
    Sha3To256,
    /// `sha3_384`.
    Sha3To384,
    /// `sha3_512`.
    Sha3To512,
}

/// The names, as Python's `cryptography` has them but for case.
const NAMES: &[(&str, Digest)] = &[
    ("sha1", Digest::Sha1),
    ("sha224", Digest::Sha224),
    ("sha256", Digest::Sha256),
    ("sha384", Digest::Sha384),
    ("sha512", Digest::Sha512),
    ("sha512_224", Digest::Sha512To224),
    ("sha512_256", Digest::Sha512To256),
    ("sha3_224", Digest::Sha3To224),
    ("sha3_256", Digest::Sha3To256),
    ("sha3_384", Digest::Sha3To384),
    ("sha3_512", Digest::Sha3To512),
];

/// Calls a generic function with the type of a digest.
macro_rules! with_digest {
    ($digest:expr, $function:ident($($argument:expr),*)) => {
        match $digest {
            Digest::Sha1 => $function::<sha1::Sha1>($($argument),*),
            Digest::Sha224 => $function::<sha2::Sha224>($($argument),*),
            Digest::Sha256 => $function::<sha2::Sha256>($($argument),*),
            Digest::Sha384 => $function::<sha2::Sha384>($($argument),*),
            Digest::Sha512 => $function::<sha2::Sha512>($($argument),*),
            Digest::Sha512To224 => $function::<sha2::Sha512_224>($($argument),*),
            Digest::Sha512To256 => $function::<sha2::Sha512_256>($($argument),*),
            Digest::Sha3To224 => $function::<sha3::Sha3_224>($($argument),*),
            Digest::Sha3To256 => $function::<sha3::Sha3_256>($($argument),*),
            Digest::Sha3To384 => $function::<sha3::Sha3_384>($($argument),*),
            Digest::Sha3To512 => $function::<sha3::Sha3_512>($($argument),*),
        }
    };
}

impl Digest {
    /// Every digest.
    pub fn all() -> impl Iterator<Item = Self> {
        NAMES.iter().map(|(_, digest)| *digest)
    }

    /// The digest of a name, in upper or lower case. Celery also takes `md5` and `sm3`; these are refused.
    ///
    /// # Errors
    /// [`SecurityFailure::UnknownDigest`].
    pub fn parse(name: &str) -> Result<Self> {
        let found = NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, digest)| *digest).ok_or_else(|| {
            let known: Vec<_> = NAMES.iter().map(|(known, _)| *known).collect();
            let reason = format!("no digest is called {name:?}; there are {}", known.join(", "));
            refused(SecurityFailure::UnknownDigest, reason)
        })
    }

    /// Its name, in lower case.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, digest)| *digest == self).map_or("sha256", |(name, _)| name)
    }

    /// A signature of a body by RSA-PSS with the longest salt; the private operation is blinded.
    pub(super) fn sign(self, key: &RsaPrivateKey, body: &[u8]) -> rsa::Result<Vec<u8>> {
        with_digest!(self, sign(key, body))
    }

    /// Whether a signature is one of this body. A salt of any length will do, as in Celery: its length proves nothing.
    pub(super) fn verify(self, key: &RsaPublicKey, body: &[u8], signature: &[u8]) -> rsa::Result<()> {
        with_digest!(self, verify(key, body, signature))
    }
}

fn sign<D: digest::Digest + FixedOutputReset>(key: &RsaPrivateKey, body: &[u8]) -> rsa::Result<Vec<u8>> {
    // RFC 8017, 9.1.1: a bit less than the modulus, and two bytes beside the digest and the salt.
    let encoded = (key.n().bits() as usize - 1).div_ceil(8);
    let salt = encoded.saturating_sub(<D as digest::Digest>::output_size() + 2);
    Pss::<D>::new_with_salt(salt).sign(Some(&mut getrandom::SysRng), key, &D::digest(body))
}

fn verify<D>(key: &RsaPublicKey, body: &[u8], signature: &[u8]) -> rsa::Result<()>
where
    D: digest::Digest + FixedOutputReset,
{
    Pss { blinded: false, digest: D::new(), salt_len: None }.verify(key, &D::digest(body), signature)
}
