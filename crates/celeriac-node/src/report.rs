//! How JavaScript learns what became of its calls: one crossing for all that finished since the last one.

use std::sync::{Arc, Mutex, MutexGuard};

use celeriac_broker::sync::lock;
use celeriac_error::Error;
use napi::Status;
use napi::bindgen_prelude::{FnArgs, Function};
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi_derive::napi;

/// A call that failed.
#[napi(object)]
pub struct NativeFailure {
    pub call: u32,
    pub code: String,
    pub message: String,
}

/// What became of calls since the last report: `(runs, documents, failures)`. `runs` names those that succeeded, by the first
/// number of a run and how many there are; `documents` are theirs in the same order, or null; `failures` is null for none.
///
/// Arguments and plain arrays: an object with a typed array costs several microseconds, also where one call is reported.
pub(crate) type Report = FnArgs<(Vec<u32>, Option<Vec<String>>, Option<Vec<NativeFailure>>)>;

#[derive(Default)]
struct Outbox {
    calls: Vec<u32>,
    documents: Vec<String>,
    failures: Vec<(u32, Arc<Error>)>,
    /// JavaScript was told and has not come yet.
    announced: bool,
}

type Announce = ThreadsafeFunction<(), (), Report, Status, false, true>;

/// Gathers outcomes on any thread; JavaScript takes them on its own.
#[derive(Clone)]
pub(crate) struct Reporter {
    outbox: Arc<Mutex<Outbox>>,
    announce: Arc<Announce>,
}

impl Reporter {
    /// Calls `report` on its own thread whenever there is something to report. It never keeps the process alive.
    pub(crate) fn new(report: &Function<'_, Report, ()>) -> napi::Result<Self> {
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

fn take(outbox: &Mutex<Outbox>) -> Report {
    let outbox = std::mem::take(&mut *lock(outbox));
    let failures = outbox.failures.into_iter().map(|(call, error)| NativeFailure {
        call,
        code: error.code().to_owned(),
        message: error.to_string(),
    });
    let failures: Vec<_> = failures.collect();
    (
        runs(&outbox.calls),
        (!outbox.documents.is_empty()).then_some(outbox.documents),
        (!failures.is_empty()).then_some(failures),
    )
        .into()
}

/// The numbers as first ones of runs with their lengths, in their order.
fn runs(numbers: &[u32]) -> Vec<u32> {
    let mut runs: Vec<u32> = Vec::new();
    for &number in numbers {
        match runs[..] {
            [.., first, ref mut count] if first.wrapping_add(*count) == number => *count += 1,
            _ => runs.extend([number, 1]),
        }
    }
    runs
}
