//! `cache+memory://NAME`: documents of this process, shared by all stores of the same name.
//!
//! For one process on the `memory://` broker, and for tests. Unlike Celery's, which keeps the latest 5000 documents,
//! it drops none before its time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::{Arc, LazyLock, Mutex, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use celeriac_broker::sync::lock;
use celeriac_error::Result;
use celeriac_protocol::TaskMeta;
use celeriac_protocol::result_meta::is_ready;

use crate::registry::StoreOptions;
use crate::store::{ResultStore, StoreRequest};
use crate::waiters::Waiters;

pub(crate) const SCHEMES: &[&str] = &["cache+memory"];

/// All documents of this process by the name in the URL. They stay when the last store of the name is closed, as the
/// documents of a server do.
static PLACES: LazyLock<Mutex<HashMap<String, Arc<Place>>>> = LazyLock::new(Mutex::default);

/// Opens the documents that the part after `cache+memory://` names; the empty name is one too.
#[allow(clippy::unnecessary_wraps)] // The shape that the registry asks for.
pub(crate) fn open(url: &str, _options: &StoreOptions) -> Result<Arc<dyn ResultStore>> {
    let name = url.split_once("://").map_or("", |(_, rest)| rest);
    let name = name.split('?').next().unwrap_or_default().trim_end_matches('/');
    let place = Arc::clone(lock(&PLACES).entry(name.to_owned()).or_default());
    let waiters = Arc::new(Waiters::default());
    lock(&place.documents).stores.push(Arc::downgrade(&waiters));
    Ok(Arc::new(MemoryStore { url: url.to_owned(), place, waiters }))
}

#[derive(Default)]
struct Place {
    documents: Mutex<Documents>,
}

#[derive(Default)]
struct Documents {
    by_id: HashMap<String, Document>,
    /// When which document goes. An entry is stale when the document has another end by now.
    ends: BinaryHeap<Reverse<(Instant, String)>>,
    stores: Vec<Weak<Waiters>>,
}

struct Document {
    meta: TaskMeta,
    end: Option<Instant>,
}

struct MemoryStore {
    url: String,
    place: Arc<Place>,
    waiters: Arc<Waiters>,
}

#[async_trait]
impl ResultStore for MemoryStore {
    fn url(&self) -> &str {
        &self.url
    }

    async fn connect(&self) -> Result<()> {
        self.waiters.check_open()
    }

    async fn store(&self, batch: &[StoreRequest]) -> Vec<Result<()>> {
        if self.waiters.check_open().is_err() {
            return batch.iter().map(|_| self.waiters.check_open()).collect();
        }
        let mut ready = Vec::new();
        let stores = {
            let mut documents = lock(&self.place.documents);
            documents.expire(Instant::now());
            for request in batch {
                if documents.put(request) && is_ready(&request.meta.status) {
                    ready.push(&request.meta);
                }
            }
            documents.stores.retain(|store| store.strong_count() > 0);
            documents.stores.clone()
        };
        for waiters in stores.iter().filter_map(Weak::upgrade) {
            for meta in &ready {
                waiters.resolve(&meta.task_id, meta);
            }
        }
        batch.iter().map(|_| Ok(())).collect()
    }

    async fn get(&self, task_ids: &[&str]) -> Result<Vec<Option<TaskMeta>>> {
        self.waiters.check_open()?;
        let mut documents = lock(&self.place.documents);
        documents.expire(Instant::now());
        Ok(task_ids.iter().map(|id| documents.by_id.get(*id).map(|document| document.meta.clone())).collect())
    }

    async fn wait(&self, task_id: &str) -> Result<TaskMeta> {
        // In this order nothing that is stored meanwhile is missed.
        let wait = self.waiters.begin(task_id)?;
        if let Some(meta) = self.get(&[task_id]).await?.pop().flatten()
            && is_ready(&meta.status)
        {
            return Ok(meta);
        }
        wait.finish().await
    }

    fn waiting(&self) -> usize {
        self.waiters.len()
    }

    async fn forget(&self, task_ids: &[&str]) -> Result<()> {
        self.waiters.check_open()?;
        let mut documents = lock(&self.place.documents);
        for id in task_ids {
            documents.by_id.remove(*id);
        }
        Ok(())
    }

    async fn close(&self) {
        self.waiters.close();
    }
}

impl Documents {
    /// Whether it was stored: nothing is stored over a SUCCESS.
    fn put(&mut self, request: &StoreRequest) -> bool {
        let id = &request.meta.task_id;
        if self.by_id.get(id).is_some_and(|document| document.meta.status == "SUCCESS") {
            return false;
        }
        let lifetime = request.expires.filter(|lifetime| *lifetime > Duration::ZERO);
        // Too far to be counted is for ever.
        let end = lifetime.and_then(|lifetime| Instant::now().checked_add(lifetime));
        if let Some(end) = end {
            self.ends.push(Reverse((end, id.clone())));
        }
        self.by_id.insert(id.clone(), Document { meta: request.meta.clone(), end });
        true
    }

    fn expire(&mut self, now: Instant) {
        while self.ends.peek().is_some_and(|Reverse((end, _))| *end <= now) {
            let Some(Reverse((end, id))) = self.ends.pop() else { return };
            if self.by_id.get(&id).is_some_and(|document| document.end == Some(end)) {
                self.by_id.remove(&id);
            }
        }
    }
}
