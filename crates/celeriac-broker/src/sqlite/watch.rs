//! Tells within a fraction of a millisecond that somebody wrote to the file, where the system can.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use super::engine::Request;
use super::location::Location;

/// Watches until it is dropped.
pub(super) struct Watch {
    _watcher: RecommendedWatcher,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Somebody waits for a change.
    wanted: AtomicBool,
    /// The thread has been told and has not looked yet.
    told: AtomicBool,
}

impl Watch {
    /// `None` where files cannot be watched; then the thread looks often.
    pub(super) fn start(location: &Location, sender: Sender<Request>) -> Option<Self> {
        if !cfg!(target_os = "linux") {
            // Elsewhere a change of a mapped or open file is reported late or not at all.
            return None;
        }
        let shared = Arc::new(Shared::default());
        let file_name = location.file_name().to_os_string();
        let ours = Arc::clone(&shared);
        // The folder, because the log comes and goes.
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let Ok(event) = event else { return };
            let changes = event.kind.is_modify() || event.kind.is_create() || event.kind.is_remove();
            let concerns = |path: &std::path::PathBuf| {
                path.file_name()
                    .is_some_and(|name| name.as_encoded_bytes().starts_with(file_name.as_encoded_bytes()))
            };
            if changes
                && ours.wanted.load(Ordering::Acquire)
                && event.paths.iter().any(concerns)
                && !ours.told.swap(true, Ordering::AcqRel)
            {
                // When the thread is gone, so is this watcher in a moment.
                let _ = sender.send(Request::FilesChanged);
            }
        })
        .ok()?;
        watcher.watch(location.folder(), RecursiveMode::NonRecursive).ok()?;
        Some(Self { _watcher: watcher, shared })
    }

    /// Whether changes are to be told at all.
    pub(super) fn set_wanted(&self, wanted: bool) {
        self.shared.wanted.store(wanted, Ordering::Release);
    }

    /// The thread will look now; the next change is told again.
    pub(super) fn seen(&self) {
        self.shared.told.store(false, Ordering::Release);
    }
}
