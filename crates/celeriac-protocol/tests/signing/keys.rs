//! Private keys in every form that is read, and those that are refused.

use celeriac_error::SecurityFailure;
use celeriac_protocol::signing::{Certificate, Digest, PrivateKey, Signer};
use rcgen::KeyPair;

use crate::{certificate, failure, file, golden, key, parameters};

#[test]
fn keys_of_every_form_sign_what_the_certificate_verifies() {
    let vectors = golden("security_python.json");
    let password = vectors["password"].as_str().unwrap();
    let plain = vectors["keys"].as_object().unwrap().iter().map(|(name, pem)| (name, pem, None));
    let encrypted =
        vectors["encrypted_keys"].as_object().unwrap().iter().map(|(name, pem)| (name, pem, Some(password)));
    let mut read = 0;
    for (name, pem, password) in plain.chain(encrypted) {
        let pem = pem.as_str().unwrap();
        let key = PrivateKey::from_pem(pem, password).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(key.bits(), 2048);
        assert!(key.is_key_of(&certificate()), "{name}");
        let signature = key.sign(b"a body", Digest::Sha256).unwrap();
        certificate().verify(b"a body", &signature, Digest::Sha256).unwrap();
        read += 1;
    }
    assert_eq!(read, 12);
}

#[test]
fn a_wrong_missing_or_needless_password_is_named_as_such() {
    let vectors = golden("security_python.json");
    let password = vectors["password"].as_str().unwrap();
    for (name, pem) in vectors["encrypted_keys"].as_object().unwrap() {
        let pem = pem.as_str().unwrap();
        for wrong in [None, Some(""), Some("password"), Some("pässword ")] {
            let error = PrivateKey::from_pem(pem, wrong).unwrap_err();
            assert_eq!(error.code(), "ERR_CELERIAC_SECURITY");
            let text = error.to_string();
            assert_eq!(
                failure::<()>(Err(error)),
                SecurityFailure::WrongPassword,
                "{name}, {wrong:?}: {text}"
            );
            assert!(
                !wrong.is_some_and(|wrong| wrong.len() > 3 && text.contains(wrong))
                    || text.contains("password is")
            );
        }
    }
    for (name, pem) in vectors["keys"].as_object().unwrap() {
        let found = PrivateKey::from_pem(pem.as_str().unwrap(), Some(password));
        assert_eq!(failure(found), SecurityFailure::WrongPassword, "{name}");
    }
}

#[test]
fn what_is_no_rsa_key_is_refused() {
    let elliptic = KeyPair::generate().unwrap().serialize_pem();
    let label = |label: &str| file("security/test.key").replace("RSA PRIVATE KEY", label);
    let broken = file("security/test.key").replace("MIIE", "MIIF");
    let short = "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----";
    let unended = file("security/test.key").replace("-----END", "");
    let ciphers = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: RC4,00\n\nMIIE\n-----END RSA PRIVATE KEY-----";
    for text in [
        "",
        "no key",
        &file("security/certs/test.pem"),
        &elliptic,
        &label("EC PRIVATE KEY"),
        &label("OPENSSH PRIVATE KEY"),
        &label("PRIVATE KEY"),
        &label("ENCRYPTED PRIVATE KEY").replace("ENCRYPTED PRIVATE KEY", "PUBLIC KEY"),
        &broken,
        short,
        &unended,
        ciphers,
    ] {
        let error = PrivateKey::from_pem(text, None).unwrap_err();
        assert!(error.to_string().starts_with("cannot use the private key: "), "{error}");
        assert_eq!(failure::<()>(Err(error)), SecurityFailure::InvalidKey, "{text}");
    }
}

#[test]
fn a_key_is_shown_by_its_length_alone() {
    assert_eq!(format!("{:?}", key()), "PrivateKey { bits: 2048, .. }");
    let signer = Signer::new(key(), &certificate(), Digest::Sha256).unwrap();
    assert!(format!("{signer:?}").len() < 200, "{signer:?}");
}

#[test]
fn a_key_that_is_not_that_of_the_certificate_is_refused() {
    // Another modulus of the same length in place of the certificate's.
    let pem = crate::made("other", 1, (2020, 2120));
    let own = Certificate::from_pem(&pem).unwrap();
    assert!(Signer::new(key(), &own, Digest::Sha256).is_ok());
    let mut der = pem_bytes(&pem);
    let modulus = modulus();
    let at = memchr::memmem::find(&der, &modulus).unwrap();
    der[at + 100] ^= 1;
    let other = Certificate::from_der(&der).unwrap();
    assert_eq!(failure(Signer::new(key(), &other, Digest::Sha256)), SecurityFailure::InvalidKey);
}

fn pem_bytes(pem: &str) -> Vec<u8> {
    use base64::Engine as _;
    let base64: String = pem.lines().filter(|line| !line.starts_with("--")).collect();
    base64::engine::general_purpose::STANDARD.decode(base64).unwrap()
}

fn modulus() -> Vec<u8> {
    use rsa::pkcs1::DecodeRsaPrivateKey as _;
    use rsa::traits::PublicKeyParts as _;
    let key = rsa::RsaPrivateKey::from_pkcs1_pem(&file("security/test.key")).unwrap();
    key.n_bytes().to_vec()
}

#[test]
fn an_elliptic_certificate_is_refused() {
    let pem =
        parameters("elliptic", 1, (2020, 2120)).self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
    let error = Certificate::from_pem(&pem).unwrap_err();
    assert!(error.to_string().contains("not an RSA key"), "{error}");
    assert_eq!(failure::<()>(Err(error)), SecurityFailure::InvalidCertificate);
}
