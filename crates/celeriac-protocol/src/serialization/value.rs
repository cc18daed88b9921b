//! Python's plain data.

use celeriac_error::{Error, Result};
use num_bigint::BigInt;
use uuid::Uuid;

use super::limits::Budget;
use super::tagged;

/// A value of Python's, as far as serializers carry it.
///
/// Equality is that of the parts, in order: two sets of the same members in another order are not equal here, and
/// not-a-number is not equal to itself.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// `None`.
    None,
    /// `bool`.
    Bool(bool),
    /// `int` of up to 64 bits with its sign.
    Int(i64),
    /// `int` that is larger. Make it by [`Value::integer`].
    BigInt(Box<BigInt>),
    /// `float`.
    Float(f64),
    /// `str`.
    Text(String),
    /// `str` with lone surrogates, as UTF-16 code units. Make it by [`from_utf16`](super::from_utf16).
    Utf16(Vec<u16>),
    /// `bytes`, and `bytearray`.
    Bytes(Vec<u8>),
    /// `list`, and `collections.deque`.
    List(Vec<Value>),
    /// `tuple`.
    Tuple(Vec<Value>),
    /// `set`, in the order in which it was written.
    Set(Vec<Value>),
    /// `frozenset`.
    FrozenSet(Vec<Value>),
    /// `dict` of whatever keys, in order; no two keys are equal.
    Dict(Vec<(Value, Value)>),
    /// `datetime.datetime` as its `isoformat`.
    DateTime(String),
    /// `datetime.date` as its `isoformat`.
    Date(String),
    /// `datetime.time` as its `isoformat`.
    Time(String),
    /// `datetime.timedelta`, as Python keeps it: only the days may be negative.
    TimeDelta {
        /// Up to 999 999 999 of either sign.
        days: i32,
        /// Less than 86 400.
        seconds: u32,
        /// Less than 1 000 000.
        microseconds: u32,
    },
    /// `decimal.Decimal` as its `str`.
    Decimal(String),
    /// `uuid.UUID`.
    Uuid(Uuid),
    /// `complex`.
    Complex {
        /// The real part.
        real: f64,
        /// The imaginary part.
        imaginary: f64,
    },
    /// An exception of Python's own or of Celery's.
    Exception(Box<Exception>),
    /// An instance of another class, or a class or function by its name. Never looked up, only kept.
    Opaque(Box<Opaque>),
}

/// An exception as data.
#[derive(Clone, Debug, PartialEq)]
pub struct Exception {
    /// The module of its class, such as `builtins`.
    pub module: String,
    /// The name of its class.
    pub kind: String,
    /// `args`.
    pub args: Vec<Value>,
    /// Its further attributes, a [`Value::Dict`], if it has any.
    pub state: Option<Value>,
}

/// An instance of a class that is not known here: what a pickle says of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Opaque {
    /// The module that the name is in.
    pub module: String,
    /// The qualified name of the class or function.
    pub name: String,
    /// How the instance is made of it.
    pub kind: OpaqueKind,
    /// Positional arguments.
    pub args: Vec<Value>,
    /// Keyword arguments, with [`OpaqueKind::New`] only.
    pub kwargs: Vec<(Value, Value)>,
    /// What `__setstate__` or `__dict__` gets, if anything.
    pub state: Option<Value>,
    /// What is appended to it: members of a subclass of `list`, `set` or `deque`.
    pub items: Vec<Value>,
    /// What is set in it: members of a subclass of `dict`.
    pub entries: Vec<(Value, Value)>,
}

/// How an opaque instance is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpaqueKind {
    /// The class or function itself; there are no arguments.
    Name,
    /// By calling it: `name(*args)`.
    Call,
    /// Without calling `__init__`: `name.__new__(name, *args, **kwargs)`.
    New,
}

impl Opaque {
    /// A class or function by its name.
    pub fn named(module: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            module: module.into(),
            name: name.into(),
            kind: OpaqueKind::Name,
            args: Vec::new(),
            kwargs: Vec::new(),
            state: None,
            items: Vec::new(),
            entries: Vec::new(),
        }
    }

    /// What a call of it returns.
    pub fn called(module: impl Into<String>, name: impl Into<String>, args: Vec<Value>) -> Self {
        Self { kind: OpaqueKind::Call, args, ..Self::named(module, name) }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl Value {
    /// An integer in the smaller form that holds it.
    pub fn integer(integer: BigInt) -> Self {
        i64::try_from(&integer).map_or_else(|_| Self::BigInt(Box::new(integer)), Self::Int)
    }

    /// A duration with its parts brought into Python's ranges.
    ///
    /// # Errors
    /// [`Error::Decode`] when it has more than 999 999 999 days.
    pub fn time_delta(days: i64, seconds: i64, microseconds: i64) -> Result<Self> {
        const MAX_DAYS: i128 = 999_999_999;
        let seconds = i128::from(seconds) + i128::from(microseconds.div_euclid(1_000_000));
        let days = i128::from(days) + seconds.div_euclid(86_400);
        match i32::try_from(days) {
            Ok(in_range) if days.abs() <= MAX_DAYS => Ok(Self::TimeDelta {
                days: in_range,
                seconds: seconds.rem_euclid(86_400) as u32,
                microseconds: microseconds.rem_euclid(1_000_000) as u32,
            }),
            _ => Err(Error::Decode { reason: format!("a timedelta cannot have {days} days") }),
        }
    }

    /// Python's name of its type, for errors.
    pub fn type_name(&self) -> &str {
        match self {
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) | Self::BigInt(_) => "int",
            Self::Float(_) => "float",
            Self::Text(_) | Self::Utf16(_) => "str",
            Self::Bytes(_) => "bytes",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Set(_) => "set",
            Self::FrozenSet(_) => "frozenset",
            Self::Dict(_) => "dict",
            Self::DateTime(_) => "datetime.datetime",
            Self::Date(_) => "datetime.date",
            Self::Time(_) => "datetime.time",
            Self::TimeDelta { .. } => "datetime.timedelta",
            Self::Decimal(_) => "decimal.Decimal",
            Self::Uuid(_) => "uuid.UUID",
            Self::Complex { .. } => "complex",
            Self::Exception(exception) => &exception.kind,
            Self::Opaque(opaque) => &opaque.name,
        }
    }

    /// Reads the common form at the boundary to JavaScript: Python's JSON with kombu's tags and ours.
    ///
    /// Beside kombu's tags (`bytes`, `base64`, `datetime`, `date`, `time`, `decimal`, `uuid`) there are these, which
    /// kombu's JSON never has: `float` (`nan`, `inf`, `-inf`), `int` (digits as text), `tuple`, `set` and `frozenset`
    /// (a list), `dict` (a list of pairs: for keys that are no strings, and for an ordinary object that happens to
    /// have exactly the two keys of a tag), `timedelta` (`[days, seconds, microseconds]`), `complex` (`[real,
    /// imaginary]`), `exception` (`{"module", "type", "args", "state"?}`) and `opaque` (`{"module", "name", "kind":
    /// "name" | "call" | "new", "args", "kwargs"?, "state"?, "items"?, "entries"?}`, where `kwargs` and `entries` are
    /// lists of pairs).
    ///
    /// # Errors
    /// [`Error::Decode`] when it is no such text, [`Error::LimitExceeded`] when it nests too deep.
    pub fn from_tagged_json(text: &str) -> Result<Self> {
        tagged::decode(text.as_bytes(), tagged::Dialect::Ours, &mut Budget::unlimited())
    }

    /// Writes the form that [`from_tagged_json`](Self::from_tagged_json) reads. It is also valid for `JSON.parse`,
    /// which loses nothing of it: what it would lose is a tag.
    ///
    /// Returns whether there are tags in it.
    ///
    /// # Errors
    /// [`Error::Encode`] for what nests deeper than 200 levels.
    pub fn to_tagged_json(&self, out: &mut String) -> Result<bool> {
        tagged::encode(self, out)
    }
}
