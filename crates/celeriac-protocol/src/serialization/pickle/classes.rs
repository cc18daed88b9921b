//! The classes whose instances are values of their own: all that a pickle may name and be understood.
//!
//! An instance that is made in another way than these are is left opaque.

use celeriac_error::Result;
use jiff::civil::{Date, Time};
use uuid::Uuid;

use crate::json::tag::is_decimal;
use crate::serialization::containers::{DictBuilder, set};
use crate::serialization::{Exception, Opaque, OpaqueKind, Value};
use crate::time::{format_clock, format_date};

/// What an instance is: a value of its own, or still itself.
pub(super) fn value(instance: Opaque) -> Result<Value> {
    let understood = match instance.kind {
        OpaqueKind::Call => called(&instance)?,
        OpaqueKind::New => created(&instance)?,
        OpaqueKind::Name => None,
    };
    Ok(understood.unwrap_or_else(|| Value::Opaque(Box::new(instance))))
}

/// Instances that a call makes: `name(*args)`.
fn called(instance: &Opaque) -> Result<Option<Value>> {
    let args = instance.args.as_slice();
    let is_plain = instance.state.is_none() && instance.items.is_empty() && instance.entries.is_empty();
    Ok(match (instance.module.as_str(), instance.name.as_str()) {
        ("collections", "OrderedDict" | "defaultdict" | "Counter") => return dictionary(instance),
        ("collections", "deque") => deque(instance),
        ("celery.utils.serialization", WRAPPER) => wrapped(instance),
        (module, name) if is_exception(module, name) => exception(instance),
        _ if !is_plain => None,
        ("datetime", "datetime") => datetime(args),
        ("datetime", "date") => match args {
            [Value::Bytes(bytes)] => date(bytes).map(|date| Value::Date(format_date(date))),
            _ => None,
        },
        ("datetime", "time") => time(args),
        ("datetime", "timedelta") => match *args {
            [Value::Int(days), Value::Int(seconds), Value::Int(microseconds)] => {
                Some(Value::time_delta(days, seconds, microseconds)?)
            }
            _ => None,
        },
        ("decimal", "Decimal") => match args {
            [Value::Text(text)] if is_decimal(text) => Some(Value::Decimal(text.clone())),
            _ => None,
        },
        ("builtins", "complex") => match *args {
            [Value::Float(real), Value::Float(imaginary)] => Some(Value::Complex { real, imaginary }),
            _ => None,
        },
        ("builtins", "set") => members(args)?.map(Value::Set),
        ("builtins", "frozenset") => members(args)?.map(Value::FrozenSet),
        ("builtins", "bytes" | "bytearray") => bytes(args),
        ("_codecs", "encode") => match args {
            [Value::Text(text), Value::Text(encoding)] => encoded(text, encoding),
            _ => None,
        },
        // A signature is a dict wherever it is sent, and rebuilt by who reads it.
        ("celery.canvas", name) => signature(name, args),
        _ => None,
    })
}

/// Instances that are made without a call: `name.__new__(name, *args)`, and a state.
fn created(instance: &Opaque) -> Result<Option<Value>> {
    match (instance.module.as_str(), instance.name.as_str()) {
        ("uuid", "UUID") => Ok(uuid(instance)),
        ("collections", "OrderedDict") => dictionary(instance),
        _ => Ok(None),
    }
}

/// Members by items, or all in one argument (`Counter`).
fn dictionary(instance: &Opaque) -> Result<Option<Value>> {
    if instance.state.is_some() || !instance.items.is_empty() {
        return Ok(None);
    }
    let given: &[(Value, Value)] = match (instance.name.as_str(), instance.args.as_slice()) {
        ("OrderedDict" | "Counter", []) | ("defaultdict", [] | [_]) => &[],
        ("Counter" | "OrderedDict", [Value::Dict(members)]) => members,
        _ => return Ok(None),
    };
    let mut builder = DictBuilder::default();
    for (key, value) in given.iter().chain(&instance.entries) {
        builder.insert(key.clone(), value.clone())?;
    }
    Ok(Some(Value::Dict(builder.finish())))
}

/// `deque(items, maxlen)`, or the items appended.
fn deque(instance: &Opaque) -> Option<Value> {
    if instance.state.is_some() || !instance.entries.is_empty() {
        return None;
    }
    let given: &[Value] = match instance.args.as_slice() {
        [] => &[],
        [Value::List(items) | Value::Tuple(items)]
        | [Value::List(items) | Value::Tuple(items), Value::Int(_) | Value::None] => items,
        _ => return None,
    };
    Some(Value::List(given.iter().chain(&instance.items).cloned().collect()))
}

fn members(args: &[Value]) -> Result<Option<Vec<Value>>> {
    match args {
        [] => Ok(Some(Vec::new())),
        [Value::List(items) | Value::Tuple(items)] => set(items.clone()).map(Some),
        _ => Ok(None),
    }
}

fn bytes(args: &[Value]) -> Option<Value> {
    match args {
        [] => Some(Value::Bytes(Vec::new())),
        [Value::Bytes(bytes)] => Some(Value::Bytes(bytes.clone())),
        [Value::Text(text), Value::Text(encoding)] => encoded(text, encoding),
        _ => None,
    }
}

/// How protocols without bytes write them.
fn encoded(text: &str, encoding: &str) -> Option<Value> {
    match encoding {
        "latin1" | "latin-1" => {
            let bytes = text.chars().map(|character| u8::try_from(u32::from(character)).ok());
            bytes.collect::<Option<Vec<u8>>>().map(Value::Bytes)
        }
        "utf-8" | "utf8" => Some(Value::Bytes(text.as_bytes().to_vec())),
        _ => None,
    }
}

fn date(bytes: &[u8]) -> Option<Date> {
    let [high, low, month, day] = *bytes else { return None };
    let year =
        i16::try_from(u16::from_be_bytes([high, low])).ok().filter(|year| (1..=9999).contains(year))?;
    Date::new(year, i8::try_from(month).ok()?, i8::try_from(day).ok()?).ok()
}

fn clock(bytes: &[u8]) -> Option<Time> {
    let [hour, minute, second, high, middle, low] = *bytes else { return None };
    let microseconds = u32::from_be_bytes([0, high, middle, low]);
    let part = |value: u8| i8::try_from(value).ok();
    let nanoseconds = i32::try_from(microseconds).ok().filter(|part| *part < 1_000_000)? * 1000;
    Time::new(part(hour)?, part(minute)?, part(second)?, nanoseconds).ok()
}

/// The highest bit of the month, or of the hour, tells the second of two equal times when clocks are turned back.
const FOLD: u8 = 0x80;

fn datetime(args: &[Value]) -> Option<Value> {
    let (bytes, offset) = with_offset(args)?;
    let (day, time) = bytes.split_at_checked(4)?;
    let [high, low, month, day] = *day else { return None };
    let date = date(&[high, low, month & !FOLD, day])?;
    Some(Value::DateTime(format!("{}T{}", format_date(date), format_clock(clock(time)?, offset))))
}

fn time(args: &[Value]) -> Option<Value> {
    let (bytes, offset) = with_offset(args)?;
    let (hour, rest) = bytes.split_first()?;
    let time = clock(&[&[hour & !FOLD], rest].concat())?;
    Some(Value::Time(format_clock(time, offset)))
}

fn with_offset(args: &[Value]) -> Option<(&[u8], Option<i32>)> {
    match args {
        [Value::Bytes(bytes)] => Some((bytes, None)),
        [Value::Bytes(bytes), zone] => Some((bytes, Some(offset(zone)?))),
        _ => None,
    }
}

/// The offset in seconds of a time zone that has but one. The rules of others are not in the pickle.
fn offset(zone: &Value) -> Option<i32> {
    let Value::Opaque(zone) = zone else { return None };
    match (zone.module.as_str(), zone.name.as_str(), zone.args.as_slice()) {
        ("datetime", "timezone", [Value::TimeDelta { days, seconds, microseconds: 0 }, ..]) => {
            let offset = days.checked_mul(86_400)?.checked_add(i32::try_from(*seconds).ok()?)?;
            (offset.abs() < 86_400).then_some(offset)
        }
        ("zoneinfo", "ZoneInfo._unpickle" | "ZoneInfo", [Value::Text(key), ..])
            if matches!(key.as_str(), "UTC" | "Etc/UTC") =>
        {
            Some(0)
        }
        ("pytz", "_UTC", []) | ("dateutil.tz.tz", "tzutc", []) => Some(0),
        _ => None,
    }
}

/// Its number is the state.
fn uuid(instance: &Opaque) -> Option<Value> {
    let Some(Value::Dict(state)) = &instance.state else { return None };
    let number = state.iter().find(|(name, _)| *name == Value::from("int")).map(|(_, number)| number)?;
    let number = match number {
        Value::Int(number) => u128::try_from(*number).ok()?,
        Value::BigInt(number) => u128::try_from(number.as_ref()).ok()?,
        _ => return None,
    };
    Some(Value::Uuid(Uuid::from_u128(number)))
}

/// A signature, chain, group or chord is made from the dict that it is.
fn signature(name: &str, args: &[Value]) -> Option<Value> {
    match (name, args) {
        ("signature" | "subtask" | "Signature" | "Signature.from_dict", [Value::Dict(members)]) => {
            Some(Value::Dict(members.clone()))
        }
        _ => None,
    }
}

/// What Celery makes of an exception that cannot be pickled.
pub(super) const WRAPPER: &str = "UnpickleableExceptionWrapper";

fn exception(instance: &Opaque) -> Option<Value> {
    if !instance.items.is_empty() || !instance.entries.is_empty() {
        return None;
    }
    Some(Value::Exception(Box::new(Exception {
        module: instance.module.clone(),
        kind: instance.name.clone(),
        args: instance.args.clone(),
        state: instance.state.clone(),
    })))
}

fn wrapped(instance: &Opaque) -> Option<Value> {
    match instance.args.as_slice() {
        [Value::Text(module), Value::Text(kind), Value::List(args) | Value::Tuple(args), ..]
            if !kind.is_empty() =>
        {
            Some(Value::Exception(Box::new(Exception {
                module: module.clone(),
                kind: kind.clone(),
                args: args.clone(),
                state: None,
            })))
        }
        _ => None,
    }
}

/// Whether this is an exception of Python's or of Celery's.
pub(super) fn is_exception(module: &str, name: &str) -> bool {
    let names = match module {
        "builtins" => BUILTINS,
        "celery.exceptions" => CELERY,
        "kombu.exceptions" => KOMBU,
        "billiard.exceptions" => BILLIARD,
        _ => return false,
    };
    names.contains(&name)
}

const BUILTINS: &[&str] = &[
    "ArithmeticError",
    "AssertionError",
    "AttributeError",
    "BaseException",
    "BaseExceptionGroup",
    "BlockingIOError",
    "BrokenPipeError",
    "BufferError",
    "BytesWarning",
    "ChildProcessError",
    "ConnectionAbortedError",
    "ConnectionError",
    "ConnectionRefusedError",
    "ConnectionResetError",
    "DeprecationWarning",
    "EOFError",
    "EncodingWarning",
    "Exception",
    "ExceptionGroup",
    "FileExistsError",
    "FileNotFoundError",
    "FloatingPointError",
    "FutureWarning",
    "GeneratorExit",
    "ImportError",
    "ImportWarning",
    "IndentationError",
    "IndexError",
    "InterruptedError",
    "IsADirectoryError",
    "KeyError",
    "KeyboardInterrupt",
    "LookupError",
    "MemoryError",
    "ModuleNotFoundError",
    "NameError",
    "NotADirectoryError",
    "NotImplementedError",
    "OSError",
    "OverflowError",
    "PendingDeprecationWarning",
    "PermissionError",
    "ProcessLookupError",
    "PythonFinalizationError",
    "RecursionError",
    "ReferenceError",
    "ResourceWarning",
    "RuntimeError",
    "RuntimeWarning",
    "StopAsyncIteration",
    "StopIteration",
    "SyntaxError",
    "SyntaxWarning",
    "SystemError",
    "SystemExit",
    "TabError",
    "TimeoutError",
    "TypeError",
    "UnboundLocalError",
    "UnicodeDecodeError",
    "UnicodeEncodeError",
    "UnicodeError",
    "UnicodeTranslateError",
    "UnicodeWarning",
    "UserWarning",
    "ValueError",
    "Warning",
    "ZeroDivisionError",
];

const CELERY: &[&str] = &[
    "AlreadyRegistered",
    "AlwaysEagerIgnored",
    "BackendError",
    "BackendGetMetaError",
    "BackendStoreError",
    "CDeprecationWarning",
    "CPendingDeprecationWarning",
    "CeleryCommandException",
    "CeleryError",
    "CeleryWarning",
    "ChordError",
    "DuplicateNodenameWarning",
    "DuplicateTaskNameWarning",
    "FixupWarning",
    "Ignore",
    "ImproperlyConfigured",
    "IncompleteStream",
    "InvalidTaskError",
    "MaxRetriesExceededError",
    "NotConfigured",
    "NotRegistered",
    "QueueNotFound",
    "Reject",
    "Retry",
    "SecurityError",
    "SecurityWarning",
    "TaskError",
    "TaskPredicate",
    "TaskRevokedError",
    "TimeoutError",
    "WorkerShutdown",
    "WorkerTerminate",
];

const KOMBU: &[&str] = &[
    "BatchPublishError",
    "ChannelLimitExceeded",
    "ConnectionLimitExceeded",
    "ContentDisallowed",
    "DecodeError",
    "EncodeError",
    "HttpError",
    "InconsistencyError",
    "KombuError",
    "LimitExceeded",
    "MessageStateError",
    "NotBoundError",
    "OperationalError",
    "SerializationError",
    "SerializerNotInstalled",
    "VersionMismatch",
];

const BILLIARD: &[&str] = &[
    "CoroStop",
    "RestartFreqExceeded",
    "SoftTimeLimitExceeded",
    "Terminated",
    "TimeLimitExceeded",
    "WorkerLostError",
];
