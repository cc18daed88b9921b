//! Signing against what Python signed, against certificates made here, and against whatever else may arrive.

#![allow(clippy::unwrap_used, clippy::panic)]

mod certificates;
#[path = "../common/mutation.rs"]
mod common;
mod keys;
mod messages;
mod mutation;
mod store;

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use celeriac_error::{Error, SecurityFailure};
use celeriac_protocol::signing::{Certificate, CertificateStore, Digest, PrivateKey, Signer, Verifier};
use jiff::Timestamp;
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_RSA_SHA256, SerialNumber, date_time_ymd};
use rsa::RsaPrivateKey;
use rsa::pkcs1::DecodeRsaPrivateKey as _;
use rsa::pkcs8::{EncodePrivateKey as _, LineEnding};
use serde_json::Value;

/// A bound that no test reaches unless it means to.
const LIMIT: usize = 1 << 20;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn golden(name: &str) -> Value {
    serde_json::from_str(&file(name)).unwrap()
}

/// A file of `tests/golden`. The key in `security` is public: it is for tests alone.
fn file(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap()).unwrap()
}

fn now() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

fn certificate() -> Certificate {
    Certificate::from_pem(&file("security/certs/test.pem")).unwrap()
}

fn key() -> PrivateKey {
    PrivateKey::from_pem(&file("security/test.key"), None).unwrap()
}

fn signer(digest: Digest) -> Signer {
    Signer::new(key(), &certificate(), digest).unwrap()
}

fn verifier(digest: Digest) -> Verifier {
    let mut store = CertificateStore::new();
    store.add(certificate()).unwrap();
    Verifier::new(store, digest)
}

/// Which check failed.
fn failure<T: std::fmt::Debug>(result: Result<T, Error>) -> SecurityFailure {
    match result {
        Err(Error::Security { failure, .. }) => failure,
        other => panic!("{other:?}"),
    }
}

/// A certificate of the test key for these years, in PEM.
fn made(name: &str, serial: u64, years: (i32, i32)) -> String {
    let rsa = RsaPrivateKey::from_pkcs1_pem(&file("security/test.key")).unwrap();
    let pem = rsa.to_pkcs8_pem(LineEnding::LF).unwrap();
    let key = KeyPair::from_pem_and_sign_algo(&pem, &PKCS_RSA_SHA256).unwrap();
    parameters(name, serial, years).self_signed(&key).unwrap().pem()
}

fn parameters(name: &str, serial: u64, years: (i32, i32)) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.serial_number = Some(SerialNumber::from(serial));
    parameters.not_before = date_time_ymd(years.0, 1, 1);
    parameters.not_after = date_time_ymd(years.1, 1, 1);
    parameters
}
