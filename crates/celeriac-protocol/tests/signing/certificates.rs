//! Certificates: their ids, their time, and what Python signed with their keys.

use celeriac_error::SecurityFailure;
use celeriac_protocol::signing::{Certificate, Digest};
use jiff::Timestamp;

use crate::{bytes, certificate, failure, file, golden, key, made};

#[test]
fn ids_are_those_of_celery() {
    let vectors = golden("security_python.json");
    let certificates = vectors["certificates"].as_array().unwrap();
    assert_eq!(certificates.len(), 8);
    for case in certificates {
        let found = Certificate::from_pem(case["pem"].as_str().unwrap()).unwrap();
        assert_eq!(found.id(), case["id"].as_str().unwrap());
    }
    let id = golden("task_messages_signed.json")["signer_id"].clone();
    assert_eq!(certificate().id(), id);
    assert_eq!(certificate().key_bits(), 2048);
}

#[test]
fn signatures_of_python_verify_with_every_digest_and_no_other() {
    let vectors = golden("security_python.json");
    let signatures = vectors["signatures"].as_array().unwrap();
    assert_eq!(signatures.len(), 33);
    for case in signatures {
        let name = case["digest"].as_str().unwrap();
        let (body, signature) = (bytes(&case["body"]), bytes(&case["signature"]));
        for digest in Digest::all() {
            let found = certificate().verify(&body, &signature, digest);
            if digest == Digest::parse(name).unwrap() {
                found.unwrap();
            } else {
                assert_eq!(failure(found), SecurityFailure::BadSignature, "{name} {digest:?}");
            }
        }
    }
}

#[test]
fn a_signature_is_salted_and_fits_one_body_alone() {
    for digest in Digest::all() {
        let (one, other) = (key().sign(b"a body", digest).unwrap(), key().sign(b"a body", digest).unwrap());
        assert_ne!(one, other);
        for signature in [&one, &other] {
            assert_eq!(signature.len(), 256);
            certificate().verify(b"a body", signature, digest).unwrap();
            for body in [&b""[..], b"a bodY", b"a body "] {
                assert_eq!(
                    failure(certificate().verify(body, signature, digest)),
                    SecurityFailure::BadSignature
                );
            }
            for length in [0, 1, 255] {
                let found = certificate().verify(b"a body", &signature[..length], digest);
                assert_eq!(failure(found), SecurityFailure::BadSignature);
            }
        }
    }
}

#[test]
fn digests_have_the_names_of_python() {
    for digest in Digest::all() {
        assert_eq!(Digest::parse(digest.name()).unwrap(), digest);
        assert_eq!(Digest::parse(&digest.name().to_uppercase()).unwrap(), digest);
    }
    assert_eq!(Digest::default().name(), "sha256");
    for unknown in ["", "md5", "sm3", "sha-256", "blake2b"] {
        assert_eq!(failure(Digest::parse(unknown)), SecurityFailure::UnknownDigest, "{unknown}");
    }
}

#[test]
fn a_certificate_is_valid_from_its_beginning_until_before_its_end() {
    let at = |text: &str| -> Timestamp { text.parse().unwrap() };
    let certificate = Certificate::from_pem(&made("timed", 9, (2025, 2027))).unwrap();
    assert_eq!(certificate.id(), "timed 9");
    assert_eq!(certificate.not_before(), at("2025-01-01T00:00:00Z"));
    assert_eq!(certificate.not_after(), at("2027-01-01T00:00:00Z"));
    for moment in ["2025-01-01T00:00:00Z", "2026-06-01T00:00:00Z", "2026-12-31T23:59:59.999Z"] {
        certificate.check_time(at(moment)).unwrap();
    }
    for moment in ["2027-01-01T00:00:00Z", "2100-01-01T00:00:00Z"] {
        assert_eq!(failure(certificate.check_time(at(moment))), SecurityFailure::Expired);
    }
    for moment in ["2024-12-31T23:59:59.999Z", "1900-01-01T00:00:00Z"] {
        assert_eq!(failure(certificate.check_time(at(moment))), SecurityFailure::NotYetValid);
    }
    // Beyond what the type of a time can hold: never.
    let forever = Certificate::from_pem(&made("forever", 1, (1000, 9999))).unwrap();
    forever.check_time(at("9998-01-01T00:00:00Z")).unwrap();
}

#[test]
fn what_is_no_certificate_is_refused() {
    let whole = file("security/certs/test.pem");
    let unended = whole.replace("-----END CERTIFICATE-----", "");
    let mismatched = whole.replace("-----END CERTIFICATE", "-----END CERTIFICATES");
    let no_base64 = whole.replacen("MII", "M*I", 1);
    let other_type = whole.replacen("MII", "AII", 1);
    for text in ["", "text", &file("security/test.key"), &unended, &mismatched, &no_base64, &other_type] {
        assert_eq!(failure(Certificate::from_pem(text)), SecurityFailure::InvalidCertificate, "{text}");
    }
    for (before, after) in
        [("a note\n", ""), ("", "\na note"), ("", &*whole), (&*file("security/test.key"), "")]
    {
        let found = Certificate::from_pem(&format!("{before}{whole}{after}")).unwrap();
        assert_eq!(found.id(), certificate().id());
    }
    Certificate::from_pem(&whole.replace('\n', "\r\n")).unwrap();
}
