//! Stores from folders and patterns.

use std::fs;
use std::path::PathBuf;

use celeriac_error::SecurityFailure;
use celeriac_protocol::signing::CertificateStore;

use crate::{certificate, failure, file, folder, made, now};

/// A folder of its own, gone at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("celeriac-signing-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn with(self, name: &str, text: &str) -> Self {
        fs::write(self.0.join(name), text).unwrap();
        self
    }

    fn load(&self, pattern: &str) -> celeriac_error::Result<CertificateStore> {
        CertificateStore::load(self.0.join(pattern).to_str().unwrap(), now())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn ids(store: &CertificateStore) -> Vec<String> {
    let mut ids: Vec<_> = store.iter().map(|certificate| certificate.id().to_owned()).collect();
    ids.sort();
    ids
}

#[test]
fn a_folder_or_a_pattern_gives_every_certificate_of_it() {
    let recorded = folder().join("security/certs");
    let store = CertificateStore::load(recorded.to_str().unwrap(), now()).unwrap();
    assert_eq!(ids(&store), [certificate().id()]);

    // A folder whose name is itself a pattern.
    let folder = Folder::new("all [1]")
        .with("a.pem", &made("a", 1, (2020, 2120)))
        .with("b.crt", &made("b", 2, (2020, 2120)))
        .with("later.pem", &made("later", 3, (2050, 2120)))
        .with(".hidden", "nothing");
    fs::create_dir_all(folder.0.join("inner")).unwrap();
    let store = folder.load("").unwrap();
    assert_eq!(ids(&store), ["a 1", "b 2", "later 3"]);
    assert_eq!(store.len(), 3);
    assert_eq!(store.get("b 2").unwrap().id(), "b 2");
    assert_eq!(failure(store.get("b")), SecurityFailure::UnknownSigner);

    let plain = Folder::new("pattern").with("a.pem", &made("a", 1, (2020, 2120))).with("b.crt", "nothing");
    assert_eq!(ids(&plain.load("*.pem").unwrap()), ["a 1"]);
    assert_eq!(ids(&plain.load("a.pem").unwrap()), ["a 1"]);
}

#[test]
fn one_expired_certificate_refuses_the_whole_store() {
    let folder = Folder::new("expired")
        .with("a.pem", &made("a", 1, (2020, 2120)))
        .with("old.pem", &made("old", 2, (2020, 2025)));
    let error = folder.load("").unwrap_err();
    assert!(error.to_string().contains("old.pem"), "{error}");
    assert_eq!(failure::<()>(Err(error)), SecurityFailure::Expired);
    folder.load("a*").unwrap();
}

#[test]
fn two_certificates_of_one_id_refuse_the_store() {
    let folder = Folder::new("twice")
        .with("a.pem", &made("a", 1, (2020, 2120)))
        .with("b.pem", &made("a", 1, (2020, 2100)));
    assert_eq!(failure(folder.load("")), SecurityFailure::InvalidStore);
}

#[test]
fn a_file_that_is_no_certificate_refuses_the_store_and_is_named() {
    for (name, text) in [("note.txt", "a note"), ("test.key", &*file("security/test.key"))] {
        let folder = Folder::new(name).with("a.pem", &made("a", 1, (2020, 2120))).with(name, text);
        let error = folder.load("").unwrap_err();
        assert!(error.to_string().contains(name) && error.to_string().len() < 300, "{error}");
        assert_eq!(failure::<()>(Err(error)), SecurityFailure::InvalidCertificate);
    }
    let folder = Folder::new("binary");
    fs::write(folder.0.join("x.der"), [0x30, 0x82, 0xff, 0xfe]).unwrap();
    assert_eq!(failure(folder.load("")), SecurityFailure::InvalidCertificate);
}

#[test]
fn a_store_without_certificates_is_refused() {
    let folder = Folder::new("empty").with(".hidden", "nothing");
    for pattern in ["", "*.pem", "missing/*"] {
        assert_eq!(failure(folder.load(pattern)), SecurityFailure::InvalidStore, "{pattern}");
    }
    assert_eq!(failure(CertificateStore::load("/[", now())), SecurityFailure::InvalidStore);
}
