//! How JavaScript learns what became of its calls: one crossing for all that finished since the last one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use celeriac_error::Error;
use napi::Status;
use napi::bindgen_prelude::{Function, Uint32Array};
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi_derive::napi;

/// A call that failed.
#[napi(object)]
pub struct NativeFailure {
    pub call: u32,
    pub code: String,
    pub message: String,
}

/// What became of calls since the last report. `calls` succeeded; `documents`, if there, are theirs in the same order.
#[napi(object)]
pub struct NativeReport {
    pub calls: Uint32Array,
    pub documents: Option<Vec<String>>,
    pub failures: Vec<NativeFailure>,
}

#[derive(Default)]
struct Outbox {
    calls: Vec<u32>,
    documents: Vec<String>,
    failures: Vec<(u32, Arc<Error>)>,
    /// JavaScript was told and has not come yet.
    announced: bool,
}

type Announce = ThreadsafeFunction<(), (), NativeReport, Status, false, true>;

/// Gathers outcomes on any thread; JavaScript takes them on its own.
#[derive(Clone)]
pub(crate) struct Reporter {
    outbox: Arc<Mutex<Outbox>>,
    announce: Arc<Announce>,
}

fn lock(outbox: &Mutex<Outbox>) -> MutexGuard<'_, Outbox> {
    outbox.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reporter {
    /// Calls `report` on its own thread whenever there is something to report. It never keeps the process alive.
    pub(crate) fn new(report: &Function<'_, NativeReport, ()>) -> napi::Result<Self> {
        let outbox: Arc<Mutex<Outbox>> = Arc::default();
        let source = Arc::clone(&outbox);
        let announce = report
            .build_threadsafe_function::<()>()
            .weak::<true>()
            .build_callback(move |_| Ok(take(&source)))?;
        Ok(Self { outbox, announce: Arc::new(announce) })
    }

    /// Reports calls that have no document.
    pub(crate) fn finished(&self, done: Vec<u32>, failed: Vec<(u32, Arc<Error>)>) {
        let mut outbox = lock(&self.outbox);
        outbox.calls.extend(done);
        outbox.failures.extend(failed);
        self.announce(outbox);
    }

    /// Reports a call with its document.
    pub(crate) fn document(&self, call: u32, document: String) {
        let mut outbox = lock(&self.outbox);
        outbox.calls.push(call);
        outbox.documents.push(document);
        self.announce(outbox);
    }

    fn announce(&self, mut outbox: MutexGuard<'_, Outbox>) {
        if !std::mem::replace(&mut outbox.announced, true) {
            drop(outbox);
            if self.announce.call((), ThreadsafeFunctionCallMode::NonBlocking) != Status::Ok {
                // The environment has ended: nobody will ask.
                *lock(&self.outbox) = Outbox::default();
            }
        }
    }
}

fn take(outbox: &Mutex<Outbox>) -> NativeReport {
    let outbox = std::mem::take(&mut *lock(outbox));
    NativeReport {
        calls: outbox.calls.into(),
        documents: (!outbox.documents.is_empty()).then_some(outbox.documents),
        failures: outbox
            .failures
            .into_iter()
            .map(|(call, error)| NativeFailure {
                call,
                code: error.code().to_owned(),
                message: error.to_string(),
            })
            .collect(),
    }
}
