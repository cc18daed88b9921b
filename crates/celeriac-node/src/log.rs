//! Log records on their way to JavaScript's logger: batched, and never in the way.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use log::{Level, LevelFilter, Log, Metadata, Record};
use napi::Status;
use napi::bindgen_prelude::Function;
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi_derive::napi;

/// One line for the log.
#[napi(object, use_nullable = true)]
pub struct NativeLogRecord {
    pub level: String,
    pub logger: String,
    pub message: String,
    pub task_id: Option<String>,
    pub task_name: Option<String>,
    pub at_ms: f64,
}

type Announce = ThreadsafeFunction<(), (), Vec<NativeLogRecord>, Status, false, true>;

struct Forwarder {
    records: Mutex<Vec<NativeLogRecord>>,
    announce: Mutex<Option<Announce>>,
}

/// Records beyond this are dropped while JavaScript takes none: its log is no queue.
const LIMIT: usize = 100_000;

static FORWARDER: OnceLock<Forwarder> = OnceLock::new();

impl Log for Forwarder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // The libraries below log under names of their own; those are no business of Celery's users.
        metadata.target().starts_with("celer") && metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let field = |name: &str| record.key_values().get(name.into()).map(|value| value.to_string());
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let line = NativeLogRecord {
            level: level_name(record.level()).to_owned(),
            logger: record.target().to_owned(),
            message: record.args().to_string(),
            task_id: field("task_id"),
            task_name: field("task_name"),
            at_ms: at.as_secs_f64() * 1000.0,
        };
        let is_first = {
            let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
            if records.len() >= LIMIT {
                return;
            }
            records.push(line);
            records.len() == 1
        };
        if is_first {
            self.flush();
        }
    }

    fn flush(&self) {
        let mut announce = self.announce.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = announce
            .as_ref()
            .is_some_and(|announce| announce.call((), ThreadsafeFunctionCallMode::NonBlocking) != Status::Ok);
        if gone {
            // Its environment has ended; the next one that sets a logger gets what waits.
            *announce = None;
        }
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::Error => "ERROR",
        Level::Warn => "WARNING",
        Level::Info => "INFO",
        Level::Debug | Level::Trace => "DEBUG",
    }
}

fn filter(level: &str) -> LevelFilter {
    match level.to_ascii_uppercase().as_str() {
        "DEBUG" => LevelFilter::Debug,
        "INFO" => LevelFilter::Info,
        "ERROR" | "CRITICAL" | "FATAL" => LevelFilter::Error,
        "OFF" => LevelFilter::Off,
        _ => LevelFilter::Warn,
    }
}

/// Sends records of `level` and above to `write`, in batches. One logger a process: the last call wins.
#[napi(catch_unwind, ts_args_type = "level: string, write: (records: Array<NativeLogRecord>) => void")]
pub fn set_logger(level: String, write: Function<'_, Vec<NativeLogRecord>, ()>) -> napi::Result<()> {
    let forwarder =
        FORWARDER.get_or_init(|| Forwarder { records: Mutex::default(), announce: Mutex::default() });
    let announce = write.build_threadsafe_function::<()>().weak::<true>().build_callback(move |_| {
        Ok(std::mem::take(&mut *forwarder.records.lock().unwrap_or_else(PoisonError::into_inner)))
    })?;
    *forwarder.announce.lock().unwrap_or_else(PoisonError::into_inner) = Some(announce);
    // Set before by an environment that came earlier: it is the same forwarder.
    let _ = log::set_logger(forwarder);
    log::set_max_level(filter(&level));
    forwarder.flush();
    Ok(())
}
