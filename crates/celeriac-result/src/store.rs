//! What every native result store must do. The contract that proves it is in `celeriac-testkit`.

use std::time::Duration;

use async_trait::async_trait;
use celeriac_broker::InlineStore;
use celeriac_error::Result;
use celeriac_protocol::TaskMeta;

/// One document to be stored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoreRequest {
    /// What is stored under `meta.task_id`.
    pub meta: TaskMeta,
    /// How long it is kept (`result_expires`); `None` is for ever.
    pub expires: Option<Duration>,
    /// The queue that whoever sent the task listens to. Only `rpc://` needs it.
    pub reply_to: Option<String>,
    /// By which that one knows the task; the task's id unless given. Only `rpc://` needs it.
    pub correlation_id: Option<String>,
}

/// Keeps what is known of tasks, by task id. Cheap to share; every method may be called from any thread.
///
/// A store reconnects by itself: after a transient error the caller calls again.
#[async_trait]
pub trait ResultStore: Send + Sync + 'static {
    /// The URL without its password.
    fn url(&self) -> &str;

    /// Resolves once the server has answered; tells a wrong password from a closed port.
    async fn connect(&self) -> Result<()>;

    /// The server behind this store, for [`Transport::same_server`](celeriac_broker::Transport::same_server);
    /// `None` when nothing else can store in its place.
    fn identity(&self) -> Option<String> {
        None
    }

    /// The request in the form that a broker on the same server can carry out; `None` when there is none.
    fn inline(&self, request: &StoreRequest) -> Option<InlineStore> {
        let _ = request;
        None
    }

    /// Stores documents and wakes whoever waits for them; the results are in the order of the batch. A stored
    /// SUCCESS is final: a later document for the same id is not stored over it, and that is no error.
    async fn store(&self, batch: &[StoreRequest]) -> Vec<Result<()>>;

    /// The documents of these ids, in their order; `None` where nothing is stored.
    async fn get(&self, task_ids: &[&str]) -> Result<Vec<Option<TaskMeta>>>;

    /// Resolves with the document once its state is ready (SUCCESS, FAILURE, REVOKED). Never polls where the store
    /// can tell; all waits share one connection; after a reconnect what was awaited is read again. Dropping the
    /// future ends the wait.
    async fn wait(&self, task_id: &str) -> Result<TaskMeta>;

    /// How many waits are going on. Falls in the moment in which a wait resolves or is dropped.
    fn waiting(&self) -> usize;

    /// Removes the documents of these ids.
    async fn forget(&self, task_ids: &[&str]) -> Result<()>;

    /// Removes documents older than `expires` where the store does not do so by itself; says how many.
    async fn cleanup(&self, expires: Duration) -> Result<u64> {
        let _ = expires;
        Ok(0)
    }

    /// Ends every wait with an error, then the connection. Calling it twice is fine.
    async fn close(&self);
}
