//! Log records on their way to JavaScript's logger: batched, and never in the way.

use std::io::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use celeriac_broker::sync::lock;
use log::{Level, LevelFilter, Log, Metadata, Record};
use napi::Status;
use napi::bindgen_prelude::Function;
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi_derive::napi;

use crate::runtime;

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
    /// Whether somebody looks whether JavaScript takes the records.
    watched: AtomicBool,
}

/// How long a warning waits for a JavaScript that is blocked before it goes to standard error without it.
const PATIENCE: Duration = Duration::from_secs(5);

impl Forwarder {
    /// Sees to it that a warning is seen although JavaScript, which writes the log, is blocked: it may be about just that.
    fn watch(&'static self) {
        let Ok(runtime) = runtime::handle() else { return };
        if self.watched.swap(true, Ordering::AcqRel) {
            return;
        }
        runtime.spawn(async move {
            loop {
                tokio::time::sleep(PATIENCE / 2).await;
                // Whoever reads standard error may be slow, and the threads here have leases to renew.
                let is_waited_for = tokio::task::spawn_blocking(|| self.write_overdue()).await;
                if !is_waited_for.unwrap_or(false) {
                    break;
                }
            }
            self.watched.store(false, Ordering::Release);
            // One may have come in between, and seen that it is watched.
            if !lock(&self.records).is_empty() {
                self.watch();
            }
        });
    }

    /// Writes the warnings that JavaScript has not taken in time; false when nothing waits any more.
    fn write_overdue(&self) -> bool {
        let overdue: Vec<NativeLogRecord> = {
            let mut records = lock(&self.records);
            if records.is_empty() {
                return false;
            }
            let limit = milliseconds_now() - PATIENCE.as_secs_f64() * 1000.0;
            let is_overdue = |record: &mut NativeLogRecord| {
                record.level != "INFO" && record.level != "DEBUG" && record.at_ms < limit
            };
            records.extract_if(.., is_overdue).collect()
        };
        for NativeLogRecord { level, message, .. } in overdue {
            // As the default format of the log has it; there is nowhere to report that it could not be written.
            let _ = writeln!(std::io::stderr(), "[{level}/MainProcess] {message}");
        }
        true
    }
}

fn milliseconds_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1000.0
}

/// The most characters of a line.
const LONGEST_LINE: usize = 4096;

/// Names and ids in a line come from whoever sent the message: they must not end the line, nor move a terminal's cursor.
fn printable(message: &str) -> String {
    let mut out = String::with_capacity(message.len().min(LONGEST_LINE));
    for (count, character) in message.chars().enumerate() {
        if count == LONGEST_LINE {
            out.push('…');
            break;
        }
        if character.is_control()
            || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    out
}

/// Records beyond this are dropped while JavaScript takes none: its log is no queue.
const LIMIT: usize = 100_000;

static FORWARDER: Forwarder = Forwarder {
    records: Mutex::new(Vec::new()),
    announce: Mutex::new(None),
    watched: AtomicBool::new(false),
};

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
        let line = NativeLogRecord {
            level: level_name(record.level()).to_owned(),
            logger: record.target().to_owned(),
            message: printable(&record.args().to_string()),
            task_id: field("task_id"),
            task_name: field("task_name"),
            at_ms: milliseconds_now(),
        };
        let is_first = {
            let mut records = lock(&self.records);
            if records.len() >= LIMIT {
                return;
            }
            records.push(line);
            records.len() == 1
        };
        if is_first {
            self.flush();
            FORWARDER.watch();
        }
    }

    fn flush(&self) {
        let mut announce = lock(&self.announce);
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
    let forwarder = &FORWARDER;
    let announce = write
        .build_threadsafe_function::<()>()
        .weak::<true>()
        .build_callback(move |_| Ok(std::mem::take(&mut *lock(&forwarder.records))))?;
    *lock(&forwarder.announce) = Some(announce);
    // Set before by an environment that came earlier: it is the same forwarder.
    let _ = log::set_logger(forwarder);
    log::set_max_level(filter(&level));
    forwarder.flush();
    Ok(())
}
