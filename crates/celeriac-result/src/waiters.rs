//! Who waits for which id: the part of waiting that all stores have in common.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use celeriac_broker::sync::lock;
use celeriac_error::{Error, Result};
use celeriac_protocol::TaskMeta;
use tokio::sync::{Notify, oneshot};

/// What a closed store calls itself in [`Error::Closed`].
pub(crate) const WHAT: &str = "result store";

/// The waits of one store.
#[derive(Default)]
pub(crate) struct Waiters {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    closed: bool,
    /// Why nobody would ever end a wait.
    broken: Option<Error>,
    tracking: bool,
    next: u64,
    count: usize,
    by_id: HashMap<Arc<str>, Vec<Waiter>>,
    changed: HashSet<Arc<str>>,
}

/// The number of a wait, and where its document goes.
type Waiter = (u64, oneshot::Sender<Result<TaskMeta>>);

/// One wait. Dropping it ends it.
pub(crate) struct Wait {
    waiters: Arc<Waiters>,
    id: Arc<str>,
    number: u64,
    receiver: oneshot::Receiver<Result<TaskMeta>>,
}

/// The ids whose awaiting began or ended since they were last taken.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Changes {
    /// Awaited now: to be listened to, and to be read once that is so.
    pub(crate) awaited: Vec<Arc<str>>,
    /// Awaited no more.
    pub(crate) released: Vec<Arc<str>>,
}

impl Waiters {
    /// The waits of a store that asks for [`Changes`]. The default keeps none, as nobody would take them away.
    pub(crate) fn tracking() -> Self {
        Self { state: Mutex::new(State { tracking: true, ..State::default() }), changed: Notify::new() }
    }

    /// Begins a wait.
    pub(crate) fn begin(self: &Arc<Self>, id: &str) -> Result<Wait> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.lock();
        state.check()?;
        state.next += 1;
        state.count += 1;
        let number = state.next;
        let known = state.by_id.get_key_value(id).map(|(id, _)| Arc::clone(id));
        let id = if let Some(id) = known {
            id
        } else {
            let id: Arc<str> = Arc::from(id);
            self.change(&mut state, &id);
            id
        };
        state.by_id.entry(Arc::clone(&id)).or_default().push((number, sender));
        Ok(Wait { waiters: Arc::clone(self), id, number, receiver })
    }

    /// Ends every wait for `id` with the same document.
    pub(crate) fn resolve(&self, id: &str, meta: &TaskMeta) {
        self.end(id, || Ok(meta.clone()));
    }

    /// Ends every wait for `id` with an error.
    pub(crate) fn fail(&self, id: &str, error: impl Fn() -> Error) {
        self.end(id, || Err(error()));
    }

    /// Ends every wait with an error.
    pub(crate) fn fail_all(&self, error: impl Fn() -> Error) {
        let mut state = self.lock();
        let ended = std::mem::take(&mut state.by_id);
        state.count = 0;
        for id in ended.keys() {
            self.change(&mut state, id);
        }
        drop(state);
        for (_, sender) in ended.into_values().flatten() {
            let _ = sender.send(Err(error()));
        }
    }

    /// Ends every wait with [`Error::Closed`]; none can begin from now on.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.fail_all(|| Error::Closed(WHAT));
    }

    /// Ends every wait, and every one that begins from now on: who was to end them is no more.
    pub(crate) fn break_off(&self, who: &str) {
        let error = Error::Internal(format!("the {who} of the result store has ended"));
        self.lock().broken.get_or_insert_with(|| error.clone());
        self.fail_all(|| error.clone());
    }

    /// [`Error::Closed`] after [`close`](Self::close).
    pub(crate) fn check_open(&self) -> Result<()> {
        self.lock().check()
    }

    /// How many waits there are.
    pub(crate) fn len(&self) -> usize {
        self.lock().count
    }

    /// Whether somebody waits for `id`.
    pub(crate) fn awaits(&self, id: &str) -> bool {
        self.lock().by_id.contains_key(id)
    }

    /// Every id that is awaited.
    pub(crate) fn ids(&self) -> Vec<Arc<str>> {
        self.lock().by_id.keys().cloned().collect()
    }

    /// Resolves when there are [`Changes`]. May resolve once too often.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What has changed since the last call.
    pub(crate) fn take_changes(&self) -> Changes {
        let mut state = self.lock();
        let changed = std::mem::take(&mut state.changed);
        let (awaited, released) = changed.into_iter().partition(|id| state.by_id.contains_key(id));
        Changes { awaited, released }
    }

    fn end(&self, id: &str, outcome: impl Fn() -> Result<TaskMeta>) {
        let mut state = self.lock();
        let Some((id, ended)) = state.by_id.remove_entry(id) else { return };
        state.count -= ended.len();
        self.change(&mut state, &id);
        drop(state);
        for (_, sender) in ended {
            let _ = sender.send(outcome());
        }
    }

    fn change(&self, state: &mut State, id: &Arc<str>) {
        if state.tracking {
            state.changed.insert(Arc::clone(id));
            self.changed.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    fn check(&self) -> Result<()> {
        match &self.broken {
            _ if self.closed => Err(Error::Closed(WHAT)),
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }
}

impl Wait {
    /// Resolves as [`Waiters::resolve`] or [`Waiters::fail`] say.
    pub(crate) async fn finish(mut self) -> Result<TaskMeta> {
        match (&mut self.receiver).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::Closed(WHAT)),
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut state = self.waiters.lock();
        let Some(waits) = state.by_id.get_mut(&self.id) else { return };
        let before = waits.len();
        waits.retain(|(number, _)| *number != self.number);
        let (removed, empty) = (before - waits.len(), waits.is_empty());
        state.count -= removed;
        if empty {
            state.by_id.remove(&self.id);
            self.waiters.change(&mut state, &self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[Arc<str>]) -> Vec<&str> {
        let mut ids: Vec<&str> = ids.iter().map(AsRef::as_ref).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn what_begins_and_ends_between_two_looks_is_released_only() {
        let waiters = Arc::new(Waiters::tracking());
        let (stays, goes) = (waiters.begin("stays").unwrap(), waiters.begin("goes").unwrap());
        drop(goes);
        let changes = waiters.take_changes();
        assert_eq!((ids(&changes.awaited), ids(&changes.released)), (vec!["stays"], vec!["goes"]));
        assert_eq!(waiters.take_changes(), Changes::default());
        drop(stays);
        assert_eq!(ids(&waiters.take_changes().released), ["stays"]);
        assert_eq!((waiters.len(), waiters.ids().len()), (0, 0));
    }

    #[test]
    fn an_id_that_is_awaited_again_is_read_again() {
        let waiters = Arc::new(Waiters::tracking());
        let first = waiters.begin("id").unwrap();
        waiters.take_changes();
        drop(first);
        let _second = waiters.begin("id").unwrap();
        let changes = waiters.take_changes();
        assert_eq!((ids(&changes.awaited), ids(&changes.released)), (vec!["id"], vec![]));
    }

    #[test]
    fn a_second_wait_changes_nothing_until_both_are_gone() {
        let waiters = Arc::new(Waiters::tracking());
        let (first, second) = (waiters.begin("id").unwrap(), waiters.begin("id").unwrap());
        waiters.take_changes();
        drop(first);
        assert_eq!(waiters.take_changes(), Changes::default());
        assert!(waiters.awaits("id"));
        drop(second);
        assert_eq!(ids(&waiters.take_changes().released), ["id"]);
    }

    #[tokio::test]
    async fn a_failed_wait_is_gone_before_it_is_looked_at() {
        let waiters = Arc::new(Waiters::tracking());
        let wait = waiters.begin("id").unwrap();
        waiters.fail("id", || Error::Decode { reason: "no".to_owned() });
        assert_eq!(waiters.len(), 0);
        assert_eq!(wait.finish().await.unwrap_err().code(), "ERR_CELERIAC_DECODE");
        waiters.close();
        assert!(waiters.begin("id").is_err());
    }

    #[tokio::test]
    async fn a_wait_ends_at_once_when_nobody_is_there_to_end_it() {
        let waiters = Arc::new(Waiters::default());
        let wait = waiters.begin("id").unwrap();
        waiters.break_off("listener");
        assert_eq!(wait.finish().await.unwrap_err().code(), "ERR_CELERIAC_INTERNAL");
        assert_eq!(waiters.begin("id").err().unwrap().code(), "ERR_CELERIAC_INTERNAL");
        waiters.close();
        assert_eq!(waiters.begin("id").err().unwrap().code(), "ERR_CELERIAC_CLOSED");
    }
}
