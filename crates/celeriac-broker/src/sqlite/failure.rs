//! What `SQLite` reports, as errors that name the file and what to do.

use rusqlite::ErrorCode;

use celeriac_error::Error;

use super::location::Location;

/// Why a transaction failed; one is told to everyone who had a part in it.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    /// Trying again later may help.
    transient: bool,
    url: String,
    reason: String,
}

impl Failure {
    pub(super) fn new(location: &Location, error: &rusqlite::Error) -> Self {
        let path = location.path.display();
        let folder = location.folder().display();
        let (transient, reason) = match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => (
                true,
                format!(
                    "another process holds the lock on {path} for longer than {} s (busy_timeout)",
                    location.busy_timeout.as_secs_f64()
                ),
            ),
            Some(ErrorCode::DiskFull) => (true, format!("the disk of {path} is full; make room")),
            Some(ErrorCode::CannotOpen) if !location.folder().is_dir() => {
                (false, format!("the folder {folder} does not exist; create it"))
            }
            Some(ErrorCode::CannotOpen) => (
                false,
                format!(
                    "{path} cannot be opened ({error}); the file and the folder {folder} must be writable"
                ),
            ),
            Some(ErrorCode::NotADatabase) => {
                (false, format!("{path} is not an SQLite database; name another file, or move it away"))
            }
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
                (false, format!("{path} is read-only; the file and the folder {folder} must be writable"))
            }
            Some(ErrorCode::DatabaseCorrupt) => (
                false,
                format!("{path} is damaged ({error}); `sqlite3 {path} .recover` may save what is in it"),
            ),
            Some(ErrorCode::TooBig) => (false, format!("a message is too large for {path}")),
            Some(ErrorCode::SystemIoFailure | ErrorCode::FileLockingProtocolFailed) => {
                (true, format!("{path} cannot be read or written: {error}"))
            }
            _ => (false, format!("{path}: {error}")),
        };
        Self { transient, url: location.url.clone(), reason }
    }

    pub(super) fn to_error(&self) -> Error {
        let (url, reason) = (self.url.clone(), self.reason.clone());
        if self.transient { Error::BrokerNotReady { url, reason } } else { Error::Refused { url, reason } }
    }
}

/// Whether another connection is in the way; it will not be for long.
pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// Whether the connection itself is of no more use: the next transaction gets a new one.
pub(super) fn is_fatal(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::CannotOpen
                | ErrorCode::NotADatabase
                | ErrorCode::ReadOnly
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::SystemIoFailure
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::SchemaChanged
        )
    )
}
