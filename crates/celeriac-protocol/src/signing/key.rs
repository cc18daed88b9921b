//! RSA private keys.

use std::fmt;

use aes::{Aes128, Aes192, Aes256};
use cbc::Decryptor;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockCipherDecrypt, BlockModeDecrypt as _, KeyInit, KeyIvInit as _};
use celeriac_error::{Error, Result, SecurityFailure};
use des::TdesEde3;
use md5::{Digest as _, Md5};
use pkcs8::EncryptedPrivateKeyInfoRef;
use rsa::RsaPrivateKey;
use rsa::pkcs1::DecodeRsaPrivateKey as _;
use rsa::pkcs8::DecodePrivateKey as _;
use rsa::traits::PublicKeyParts as _;
use zeroize::Zeroizing;

use super::pem::{self, Block};
use super::{Certificate, Digest, refused};

/// The labels of private keys. Those of other algorithms are known to be named in a message.
const RSA_KEY: &str = "RSA PRIVATE KEY";
const PLAIN_KEY: &str = "PRIVATE KEY";
const ENCRYPTED_KEY: &str = "ENCRYPTED PRIVATE KEY";

/// An RSA private key of 1024 to 8192 bits. It is wiped from memory when it is dropped, and never shown.
pub struct PrivateKey {
    key: RsaPrivateKey,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PrivateKey").field("bits", &self.key.n().bits()).finish_non_exhaustive()
    }
}

impl PrivateKey {
    /// Reads the first private key of a PEM text: PKCS#8 (`PRIVATE KEY`, `ENCRYPTED PRIVATE KEY`) or PKCS#1 (`RSA PRIVATE KEY`,
    /// also with the traditional encryption of OpenSSL by AES or triple DES). The text and the password are the caller's
    /// to wipe.
    ///
    /// # Errors
    /// [`SecurityFailure::WrongPassword`] when it is encrypted and the password is missing or wrong, or when there is one
    /// and the key is not encrypted (as Python refuses too); [`SecurityFailure::InvalidKey`] for anything else that is
    /// no such key. No message has a part of it.
    pub fn from_pem(text: &str, password: Option<&str>) -> Result<Self> {
        let block = pem::find(text, |label| label.ends_with("PRIVATE KEY")).map_err(invalid)?;
        let password = password.filter(|password| !password.is_empty());
        let traditional = traditional_encryption(&block)?;
        if (block.label == ENCRYPTED_KEY || traditional.is_some()) && password.is_none() {
            return Err(wrong_password("it is encrypted; its password is needed"));
        }
        if block.label != ENCRYPTED_KEY && traditional.is_none() && password.is_some() {
            return Err(wrong_password("there is a password, but the key is not encrypted"));
        }
        let password = password.unwrap_or_default().as_bytes();
        let key = match (block.label, traditional) {
            (ENCRYPTED_KEY, _) => return Self::from_encrypted(&block.bytes, password),
            (PLAIN_KEY, _) => RsaPrivateKey::from_pkcs8_der(&block.bytes).ok(),
            (RSA_KEY, None) => RsaPrivateKey::from_pkcs1_der(&block.bytes).ok(),
            (RSA_KEY, Some(encryption)) => {
                let der = encryption
                    .decrypt(&block.bytes, password)
                    .ok_or_else(|| wrong_password("the password is wrong"))?;
                // One time in 256 a wrong password leaves what looks like padding.
                let key = RsaPrivateKey::from_pkcs1_der(&der);
                return key.map(|key| Self { key }).map_err(|_| wrong_password("the password is wrong"));
            }
            (other, _) => {
                return Err(invalid(&format!("it is of the kind {:?}, and no RSA key", shown(other))));
            }
        };
        key.map(|key| Self { key }).ok_or_else(unusable)
    }

    fn from_encrypted(der: &[u8], password: &[u8]) -> Result<Self> {
        let encrypted = EncryptedPrivateKeyInfoRef::try_from(der)
            .map_err(|_| invalid("it is encrypted in a way that is not known, or damaged"))?;
        let plain = encrypted.decrypt(password).map_err(|error| match error {
            pkcs8::Error::EncryptedPrivateKey(pkcs8::pkcs5::Error::UnsupportedAlgorithm { .. }) => {
                invalid("it is encrypted in a way that is not known: AES and triple DES of PBES2 are")
            }
            _ => wrong_password("the password is wrong"),
        })?;
        let key = RsaPrivateKey::from_pkcs8_der(plain.as_bytes()).map_err(|_| unusable())?;
        Ok(Self { key })
    }

    /// The length of the key in bits.
    pub fn bits(&self) -> u32 {
        self.key.n().bits()
    }

    /// Whether it is the private part of a certificate's key.
    pub fn is_key_of(&self, certificate: &Certificate) -> bool {
        let public = certificate.key();
        self.key.n() == public.n() && self.key.e() == public.e()
    }

    /// A signature of a body: RSA-PSS, MGF1 of the same digest, the longest salt that the key allows.
    ///
    /// # Errors
    /// [`SecurityFailure::InvalidKey`] when the key is too short for the digest, [`Error::Internal`] when the system has no
    /// random numbers.
    pub fn sign(&self, body: &[u8], digest: Digest) -> Result<Vec<u8>> {
        digest.sign(&self.key, body).map_err(|error| match error {
            rsa::Error::Rng => Error::Internal("the system gives no random numbers to sign with".to_owned()),
            _ => invalid("it cannot sign with this digest"),
        })
    }
}

/// The way in which OpenSSL encrypted PEM before PKCS#8.
struct Traditional<'a> {
    cipher: &'a str,
    vector: Vec<u8>,
}

/// Which of the two lines before the base64 say so: `Proc-Type: 4,ENCRYPTED` and `DEK-Info: CIPHER,VECTOR`.
fn traditional_encryption<'a>(block: &Block<'a>) -> Result<Option<Traditional<'a>>> {
    let header = |wanted| block.headers.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
    if !header("Proc-Type").is_some_and(|value| value.ends_with("ENCRYPTED")) {
        return Ok(None);
    }
    let (cipher, vector) = header("DEK-Info")
        .and_then(|value| value.split_once(','))
        .ok_or_else(|| invalid("it is encrypted, and does not say how"))?;
    let vector =
        hexadecimal(vector.trim()).ok_or_else(|| invalid("it is encrypted, and does not say how"))?;
    if !matches!(cipher, "AES-128-CBC" | "AES-192-CBC" | "AES-256-CBC" | "DES-EDE3-CBC") || vector.len() < 8 {
        return Err(invalid(
            "it is encrypted in a way that is not known: AES and triple DES are, in mode CBC",
        ));
    }
    Ok(Some(Traditional { cipher, vector }))
}

impl Traditional<'_> {
    fn decrypt(&self, bytes: &[u8], password: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        match self.cipher {
            "AES-128-CBC" => self.decrypt_with::<Aes128>(bytes, password, 16),
            "AES-192-CBC" => self.decrypt_with::<Aes192>(bytes, password, 24),
            "AES-256-CBC" => self.decrypt_with::<Aes256>(bytes, password, 32),
            _ => self.decrypt_with::<TdesEde3>(bytes, password, 24),
        }
    }

    fn decrypt_with<C>(&self, bytes: &[u8], password: &[u8], length: usize) -> Option<Zeroizing<Vec<u8>>>
    where
        C: BlockCipherDecrypt + KeyInit,
    {
        let key = self.derive(password, length);
        let mut buffer = Zeroizing::new(bytes.to_vec());
        let cipher = Decryptor::<C>::new_from_slices(&key, &self.vector).ok()?;
        let length = cipher.decrypt_padded::<Pkcs7>(&mut buffer).ok()?.len();
        buffer.truncate(length);
        Some(buffer)
    }

    /// OpenSSL's `EVP_BytesToKey`: MD5 of what there is, the password and the first eight bytes of the vector, until there
    /// is enough.
    fn derive(&self, password: &[u8], length: usize) -> Zeroizing<Vec<u8>> {
        let mut key = Zeroizing::new(Vec::with_capacity(length + 16));
        let mut last = Zeroizing::new(Vec::new());
        while key.len() < length {
            let mut hash = Md5::new();
            hash.update(&*last);
            hash.update(password);
            hash.update(&self.vector[..8]);
            *last = hash.finalize().to_vec();
            key.extend_from_slice(&last);
        }
        key.truncate(length);
        key
    }
}

fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// A label of a file, which may be any file.
fn shown(label: &str) -> String {
    label.chars().take(40).collect()
}

fn unusable() -> Error {
    invalid("it is damaged, or no RSA key of 1024 to 8192 bits")
}

fn invalid(reason: &str) -> Error {
    refused(SecurityFailure::InvalidKey, format!("cannot use the private key: {reason}"))
}

fn wrong_password(reason: &str) -> Error {
    refused(SecurityFailure::WrongPassword, format!("cannot use the private key: {reason}"))
}
