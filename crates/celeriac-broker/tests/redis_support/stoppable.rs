//! A worker that can be stopped and goes on as if no time had passed.

use std::future::Future;

use super::within;

/// One thread with all that a worker does, which can be stopped as a process is.
pub struct Stoppable {
    runtime: tokio::runtime::Handle,
    _ended: tokio::sync::oneshot::Sender<()>,
}

impl Stoppable {
    pub fn start() -> Self {
        let (handles, handle) = std::sync::mpsc::channel();
        let (ended, end) = tokio::sync::oneshot::channel::<()>();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            handles.send(runtime.handle().clone()).unwrap();
            let _ = runtime.block_on(end);
        });
        Self { runtime: handle.recv().unwrap(), _ended: ended }
    }

    pub async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        within(self.runtime.spawn(work)).await.unwrap()
    }

    /// Nothing runs there until the sender is dropped.
    pub async fn stop(&self) -> std::sync::mpsc::Sender<()> {
        let (resume, resumed) = std::sync::mpsc::channel();
        let (stopping, stopped) = tokio::sync::oneshot::channel();
        self.runtime.spawn(async move {
            stopping.send(()).unwrap();
            let _ = resumed.recv();
        });
        within(stopped).await.unwrap();
        resume
    }
}
