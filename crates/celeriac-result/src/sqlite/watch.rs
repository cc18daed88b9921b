//! Tells within a fraction of a millisecond that somebody wrote to the file, where the system can.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};

use super::location::Location;
use super::thread::Job;

/// Watches until it is dropped.
pub(super) struct Watch {
    _watcher: RecommendedWatcher,
    flags: Arc<Flags>,
}

#[derive(Default)]
struct Flags {
    /// Changes are to be told.
    wanted: AtomicBool,
    /// The thread has been told and has not looked yet.
    told: AtomicBool,
}

impl Watch {
    /// `None` where files cannot be watched: the thread then looks often.
    pub(super) fn start(location: &Location, sender: Sender<Job>) -> Option<Self> {
        if !cfg!(target_os = "linux") {
            // Elsewhere a change of an open file is reported late or not at all.
            return None;
        }
        let flags = Arc::new(Flags::default());
        let told = Arc::clone(&flags);
        let name = location.path.file_name()?.as_encoded_bytes().to_vec();
        // The name of the write-ahead log begins with that of the file.
        let concerns = move |path: &PathBuf| {
            path.file_name().is_some_and(|file| file.as_encoded_bytes().starts_with(&name))
        };
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let Ok(event) = event else { return };
            let changes = event.kind.is_modify() || event.kind.is_create() || event.kind.is_remove();
            if changes
                && told.wanted.load(Ordering::Acquire)
                && event.paths.iter().any(&concerns)
                && !told.told.swap(true, Ordering::AcqRel)
            {
                // The thread outlives its watch.
                let _ = sender.send(Job::FileChanged);
            }
        })
        .ok()?;
        // The folder, because the log comes and goes.
        watcher.watch(location.folder(), RecursiveMode::NonRecursive).ok()?;
        Some(Self { _watcher: watcher, flags })
    }

    /// Whether changes are to be told.
    pub(super) fn set_wanted(&self, wanted: bool) {
        self.flags.wanted.store(wanted, Ordering::Release);
    }

    /// The thread looks now; the next change is told again.
    pub(super) fn seen(&self) {
        self.flags.told.store(false, Ordering::Release);
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    #[test]
    fn a_commit_of_another_connection_is_told_once_until_it_is_seen() {
        let folder = std::env::temp_dir().join(format!("celeriac-watch-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&folder).unwrap();
        let url = format!("db+sqlite:///{}", folder.join("f.db").display());
        let location = Location::parse(&url, &serde_json::Map::new()).unwrap();
        let python = rusqlite::Connection::open(&location.path).unwrap();
        python.execute_batch("PRAGMA journal_mode = wal; CREATE TABLE t (n)").unwrap();

        let (sender, receiver) = channel();
        let watch = Watch::start(&location, sender).unwrap();
        watch.set_wanted(true);
        for _ in 0..3 {
            python.execute_batch("INSERT INTO t VALUES (1)").unwrap();
            let told = receiver.recv_timeout(Duration::from_secs(20)).unwrap();
            assert!(matches!(told, Job::FileChanged));
            python.execute_batch("INSERT INTO t VALUES (2)").unwrap();
            assert!(receiver.try_recv().is_err(), "told again before it was seen");
            watch.seen();
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
