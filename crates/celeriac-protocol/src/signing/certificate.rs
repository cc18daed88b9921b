//! X.509 certificates, as far as signing needs them.

use celeriac_error::{Error, Result, SecurityFailure};
use jiff::Timestamp;
use rsa::RsaPublicKey;
use rsa::pkcs1::DecodeRsaPublicKey as _;
use rsa::traits::PublicKeyParts as _;
use x509_parser::asn1_rs::{Any, Tag};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Name;

use super::digest::Digest;
use super::{pem, refused};

/// The algorithms of a public key that is used here: `rsaEncryption`, and the same for PSS alone.
const RSA: [&str; 2] = ["1.2.840.113549.1.1.1", "1.2.840.113549.1.1.10"];

/// A certificate with an RSA key of 1024 to 8192 bits.
///
/// It is trusted because it is there: neither who issued it, nor its uses or a list of revoked ones are looked at, as in
/// Celery.
#[derive(Clone, Debug)]
pub struct Certificate {
    id: String,
    not_before: Timestamp,
    not_after: Timestamp,
    key: RsaPublicKey,
}

impl Certificate {
    /// Reads the first certificate of a PEM text.
    ///
    /// # Errors
    /// [`SecurityFailure::InvalidCertificate`].
    pub fn from_pem(text: &str) -> Result<Self> {
        let wanted = |label: &str| matches!(label, "CERTIFICATE" | "X509 CERTIFICATE");
        let block = pem::find(text, wanted).map_err(invalid)?;
        Self::from_der(&block.bytes)
    }

    /// Reads a certificate in its binary form.
    ///
    /// # Errors
    /// [`SecurityFailure::InvalidCertificate`].
    pub fn from_der(der: &[u8]) -> Result<Self> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| invalid("it is no X.509 certificate"))?;
        if !rest.is_empty() {
            return Err(invalid("bytes follow its end"));
        }
        let public = &certificate.tbs_certificate.subject_pki;
        if !RSA.contains(&public.algorithm.algorithm.to_id_string().as_str()) {
            return Err(invalid("its key is not an RSA key; signing needs one"));
        }
        let key = RsaPublicKey::from_pkcs1_der(&public.subject_public_key.data)
            .map_err(|_| invalid("its key is no RSA key of 1024 to 8192 bits"))?;
        let issuer = issuer(certificate.issuer())?;
        let validity = certificate.validity();
        Ok(Self {
            id: format!("{issuer} {}", decimal(certificate.raw_serial())),
            not_before: timestamp(&validity.not_before),
            not_after: timestamp(&validity.not_after),
            key,
        })
    }

    /// What a message names its signer by: the values of the issuer's attributes and the serial number, in decimal, all
    /// joined by spaces.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The moment from which it is valid.
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// The moment at which it has expired.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// The length of its key in bits.
    pub fn key_bits(&self) -> u32 {
        self.key.n().bits()
    }

    /// Whether it is valid at a moment.
    ///
    /// # Errors
    /// [`SecurityFailure::Expired`] from its end on, [`SecurityFailure::NotYetValid`] before its beginning. Celery looks
    /// at the end alone.
    pub fn check_time(&self, now: Timestamp) -> Result<()> {
        if now >= self.not_after {
            let reason = format!("the certificate {:?} has expired at {}", self.id, self.not_after);
            return Err(refused(SecurityFailure::Expired, reason));
        }
        if now < self.not_before {
            let reason = format!("the certificate {:?} is not valid before {}", self.id, self.not_before);
            return Err(refused(SecurityFailure::NotYetValid, reason));
        }
        Ok(())
    }

    /// Whether a signature is that of a body, by the key of this certificate. Its time is not looked at.
    ///
    /// # Errors
    /// [`SecurityFailure::BadSignature`].
    pub fn verify(&self, body: &[u8], signature: &[u8], digest: Digest) -> Result<()> {
        digest.verify(&self.key, body, signature).map_err(|_| {
            let reason = format!(
                "the signature is not one of this body by {:?} with {}: the message was changed, or signed with another key or digest",
                self.id,
                digest.name()
            );
            refused(SecurityFailure::BadSignature, reason)
        })
    }

    pub(super) fn key(&self) -> &RsaPublicKey {
        &self.key
    }
}

/// The values of the issuer's attributes in their order, joined by spaces.
fn issuer(name: &X509Name<'_>) -> Result<String> {
    let values: Result<Vec<String>> = name
        .iter_attributes()
        .map(|attribute| {
            text(attribute.attr_value()).ok_or_else(|| invalid("its issuer has a value that is no text"))
        })
        .collect();
    Ok(values?.join(" "))
}

/// The text of an attribute, by its type: two bytes a character, four, or UTF-8.
fn text(value: &Any<'_>) -> Option<String> {
    match value.tag() {
        Tag::BitString => None,
        Tag::BmpString => {
            let units = value.data.chunks(2).map(|unit| Some(u16::from_be_bytes(unit.try_into().ok()?)));
            String::from_utf16(&units.collect::<Option<Vec<_>>>()?).ok()
        }
        Tag::UniversalString => {
            let characters = value.data.chunks(4);
            characters.map(|bytes| char::from_u32(u32::from_be_bytes(bytes.try_into().ok()?))).collect()
        }
        _ => String::from_utf8(value.data.to_vec()).ok(),
    }
}

/// A whole number in two's complement, in decimal. Serial numbers are up to 20 bytes long, and some are longer.
fn decimal(bytes: &[u8]) -> String {
    let negative = bytes.first().is_some_and(|first| first & 0x80 != 0);
    let mut magnitude: Vec<u8> = bytes.iter().map(|byte| if negative { !byte } else { *byte }).collect();
    if negative {
        for byte in magnitude.iter_mut().rev() {
            let (sum, carry) = byte.overflowing_add(1);
            *byte = sum;
            if !carry {
                break;
            }
        }
    }
    // Divided by ten until nothing is left; the remainders are the digits from the last on.
    let mut digits = Vec::new();
    loop {
        let mut remainder = 0_u16;
        for byte in &mut magnitude {
            let value = remainder << 8 | u16::from(*byte);
            *byte = (value / 10) as u8;
            remainder = value % 10;
        }
        digits.push(char::from(b'0' + remainder as u8));
        if magnitude.iter().all(|byte| *byte == 0) {
            break;
        }
    }
    if negative {
        digits.push('-');
    }
    digits.iter().rev().collect()
}

fn timestamp(time: &ASN1Time) -> Timestamp {
    // What lies beyond the last days of the year 9999 is as good as never.
    Timestamp::from_second(time.timestamp()).unwrap_or(if time.timestamp() < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    })
}

fn invalid(reason: &str) -> Error {
    refused(SecurityFailure::InvalidCertificate, format!("cannot use the certificate: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::decimal;

    #[test]
    fn serial_numbers_of_any_size_are_decimal() {
        for (bytes, expected) in [
            (&[][..], "0"),
            (&[0][..], "0"),
            (&[0x7f][..], "127"),
            (&[0, 0x80][..], "128"),
            (&[0x80][..], "-128"),
            (&[0xff][..], "-1"),
            (&[0x12, 0x34, 0x56, 0x78, 0x90, 0xab, 0xcd, 0xef, 0x12, 0x34][..], "85968058272638546416180"),
            (
                &[
                    0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                    0xff,
                ][..],
                "170141183460469231731687303715884105727",
            ),
        ] {
            assert_eq!(decimal(bytes), expected);
        }
    }
}
