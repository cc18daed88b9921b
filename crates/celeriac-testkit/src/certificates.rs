//! Certificates for servers and clients of tests.

// What is not as expected is a failed test.
#![allow(clippy::expect_used)]

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// An authority (`ca.pem`), and what it certifies: this machine's name (`server.pem`) and a client (`client.pem`), with their
/// keys (`server-key.pem`, `client-key.pem`), in a folder that goes with this.
pub struct Certificates {
    folder: PathBuf,
}

impl Certificates {
    /// Makes all of them anew.
    pub fn make() -> Self {
        let folder = std::env::temp_dir().join(format!("celeriac-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&folder).expect("a folder for the certificates");
        let write = |file: &str, text: String| {
            std::fs::write(folder.join(file), text).expect("a certificate can be written");
        };
        let key = KeyPair::generate().expect("a key");
        let mut authority = CertificateParams::new(Vec::<String>::new()).expect("an authority without names");
        authority.distinguished_name.push(DnType::CommonName, "authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        write("ca.pem", authority.self_signed(&key).expect("the authority signs itself").pem());
        let issuer = Issuer::new(authority, key);
        for (file, name) in [("server", "localhost"), ("client", "client")] {
            let key = KeyPair::generate().expect("a key");
            let certificate = CertificateParams::new([name.to_owned()]).expect("a name");
            let certificate = certificate.signed_by(&key, &issuer).expect("the authority signs it");
            write(&format!("{file}.pem"), certificate.pem());
            write(&format!("{file}-key.pem"), key.serialize_pem());
        }
        Self { folder }
    }

    /// Where one of the files is.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The same as text.
    pub fn path(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
