//! The certificates that are trusted.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use celeriac_error::{Error, Result, SecurityFailure};
use glob::{MatchOptions, Pattern};
use jiff::Timestamp;

use super::{Certificate, refused};

/// How much of an id that a stranger wrote is shown in a message, in characters.
const SHOWN: usize = 120;

/// The certificates whose signatures are taken, by their ids.
#[derive(Clone, Debug, Default)]
pub struct CertificateStore {
    certificates: HashMap<String, Certificate>,
}

impl CertificateStore {
    /// A store without certificates: nobody's messages are taken.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads every file of a folder, or every one that a glob pattern matches: each a certificate in PEM. Files whose names
    /// begin with a dot count only where the pattern says so, folders never do. It blocks, and is meant for the start.
    ///
    /// # Errors
    /// [`SecurityFailure::Expired`] when one has expired at `now`, [`SecurityFailure::InvalidCertificate`] when a file is
    /// none or cannot be read, [`SecurityFailure::InvalidStore`] when two have one id or when there is no file at all
    /// (Celery then takes nobody's messages, without a word).
    pub fn load(path: &str, now: Timestamp) -> Result<Self> {
        let pattern = if Path::new(path).is_dir() {
            Path::new(&Pattern::escape(path)).join("*").to_string_lossy().into_owned()
        } else {
            path.to_owned()
        };
        let options = MatchOptions { require_literal_leading_dot: true, ..MatchOptions::new() };
        let files = glob::glob_with(&pattern, options)
            .map_err(|error| invalid(format!("{path:?} is no pattern of file names: {error}")))?;
        let mut store = Self::new();
        for file in files {
            let file = file.map_err(|error| invalid(error.to_string()))?;
            if file.is_dir() {
                continue;
            }
            let text = fs::read_to_string(&file).map_err(|error| {
                refused(
                    SecurityFailure::InvalidCertificate,
                    format!("cannot read {}: {error}", file.display()),
                )
            })?;
            let named = |error| in_file(error, &file);
            let certificate = Certificate::from_pem(&text).map_err(named)?;
            if now >= certificate.not_after() {
                certificate.check_time(now).map_err(named)?;
            }
            store.add(certificate).map_err(named)?;
        }
        if store.certificates.is_empty() {
            return Err(invalid(format!("there is no certificate at {path:?}")));
        }
        Ok(store)
    }

    /// Adds a certificate, whatever its time is: one that is not valid yet may lie there already.
    ///
    /// # Errors
    /// [`SecurityFailure::InvalidStore`] when there is one of this id already.
    pub fn add(&mut self, certificate: Certificate) -> Result<()> {
        let id = certificate.id().to_owned();
        if self.certificates.contains_key(&id) {
            return Err(invalid(format!("two certificates have the id {id:?}")));
        }
        self.certificates.insert(id, certificate);
        Ok(())
    }

    /// The certificate of an id.
    ///
    /// # Errors
    /// [`SecurityFailure::UnknownSigner`].
    pub fn get(&self, id: &str) -> Result<&Certificate> {
        self.certificates.get(id).ok_or_else(|| {
            let mut shown: String = id.chars().take(SHOWN).collect();
            if shown.len() < id.len() {
                shown.push('…');
            }
            refused(
                SecurityFailure::UnknownSigner,
                format!("no certificate of the store has the id {shown:?}"),
            )
        })
    }

    /// The certificates, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Certificate> {
        self.certificates.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.certificates.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.certificates.is_empty()
    }
}

/// The same error with the name of the file, by which it can be mended.
fn in_file(error: Error, file: &Path) -> Error {
    match error {
        Error::Security { failure, reason } => refused(failure, format!("{}: {reason}", file.display())),
        other => other,
    }
}

fn invalid(reason: String) -> Error {
    refused(SecurityFailure::InvalidStore, reason)
}
