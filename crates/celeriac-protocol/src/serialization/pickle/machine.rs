//! The machine that a pickle is a program for. It makes a graph of objects; what they mean is `build`'s.

use std::collections::HashMap;

use celeriac_error::{Error, Result};

use crate::serialization::limits::{integer_from_bytes, parse_integer};
use crate::serialization::text::{self, TextBuilder};
use crate::serialization::{Limits, OpaqueKind, Value};

/// An object by its number.
pub(super) type Id = u32;

/// An object as the machine has it; others by their numbers.
#[derive(Debug)]
pub(super) enum Object {
    /// Something without parts.
    Plain(Value),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Set(Vec<Id>),
    FrozenSet(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A class or function.
    Name(Box<Name>),
    /// What was made of one.
    Instance(Box<Instance>),
}

#[derive(Clone, Debug)]
pub(super) struct Name {
    pub(super) module: String,
    pub(super) name: String,
}

#[derive(Debug)]
pub(super) struct Instance {
    pub(super) class: Name,
    pub(super) kind: OpaqueKind,
    pub(super) args: Vec<Id>,
    pub(super) kwargs: Vec<(Id, Id)>,
    pub(super) state: Option<Id>,
    pub(super) items: Vec<Id>,
    pub(super) entries: Vec<(Id, Id)>,
}

/// Runs the program; all objects, and which of them is the result.
pub(super) fn run(program: &[u8], limits: &Limits) -> Result<(Vec<Object>, Id)> {
    let mut machine = Machine {
        rest: program,
        most_objects: limits.values,
        objects: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Memo::default(),
        protocol: 0,
    };
    loop {
        let [code] = machine.array()?;
        if code == b'.' {
            let root = machine.pop()?;
            return Ok((machine.objects, root));
        }
        machine.step(code)?;
    }
}

struct Machine<'a> {
    rest: &'a [u8],
    most_objects: usize,
    objects: Vec<Object>,
    stack: Vec<Id>,
    /// Where on the stack a mark lies, the innermost last.
    marks: Vec<usize>,
    memo: Memo,
    protocol: u8,
}

pub(super) fn wrong(why: &str) -> Error {
    Error::Decode { reason: format!("no valid pickle: {why}") }
}

fn refused(what: &str) -> Error {
    Error::Decode { reason: format!("this pickle is not read: {what}") }
}

impl<'a> Machine<'a> {
    fn step(&mut self, code: u8) -> Result<()> {
        match code {
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                // Python takes a mark that lies on top.
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            b'1' => {
                self.pop_mark()?;
            }
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            b'N' => self.plain(Value::None)?,
            0x88 => self.plain(Value::Bool(true))?,
            0x89 => self.plain(Value::Bool(false))?,
            b'I' | b'J' | b'K' | b'L' | b'M' | 0x8a | 0x8b | b'F' | b'G' => {
                let number = self.number(code)?;
                self.plain(number)?;
            }
            b'S' | b'T' | b'U' | b'V' | b'X' | 0x8c | 0x8d => {
                let text = self.text(code)?;
                self.plain(text)?;
            }
            b'B' | b'C' | 0x8e | 0x96 => {
                let length = self.length(match code {
                    b'C' => 1,
                    b'B' => 4,
                    _ => 8,
                })?;
                let bytes = self.take(length)?.to_vec();
                self.plain(Value::Bytes(bytes))?;
            }
            b']' => self.push(Object::List(Vec::new()))?,
            b'l' => {
                let items = self.pop_mark()?;
                self.push(Object::List(items))?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.pop_mark()?;
                self.append(items)?;
            }
            b')' => self.push(Object::Tuple(Vec::new()))?,
            b't' => {
                let items = self.pop_mark()?;
                self.push(Object::Tuple(items))?;
            }
            0x85..=0x87 => {
                let count = usize::from(code - 0x84);
                let items = self.pop_many(count)?;
                self.push(Object::Tuple(items))?;
            }
            0x8f => self.push(Object::Set(Vec::new()))?,
            0x90 => {
                let items = self.pop_mark()?;
                self.add(items)?;
            }
            0x91 => {
                let items = self.pop_mark()?;
                self.push(Object::FrozenSet(items))?;
            }
            b'}' => self.push(Object::Dict(Vec::new()))?,
            b'd' => {
                let members = self.pop_mark()?;
                self.push(Object::Dict(pairs(&members)?))?;
            }
            b's' => {
                let members = self.pop_many(2)?;
                self.set_items(&members)?;
            }
            b'u' => {
                let members = self.pop_mark()?;
                self.set_items(&members)?;
            }
            b'p' | b'q' | b'r' | 0x94 => self.memoize(code)?,
            b'g' | b'h' | b'j' => {
                let place = self.place(code)?;
                let id = self.memo.get(place).ok_or_else(|| wrong("a reference to nothing"))?;
                self.stack.push(id);
            }
            b'c' => {
                let module = self.line_text()?;
                let name = self.line_text()?;
                self.name(module, name)?;
            }
            0x93 => {
                let name = self.pop_text()?;
                let module = self.pop_text()?;
                self.name(module, name)?;
            }
            b'R' | b'b' | 0x81 | 0x92 | b'i' | b'o' => self.instance(code)?,
            0x80 => {
                let [protocol] = self.array()?;
                if protocol > 5 {
                    return Err(wrong(&format!("there is no protocol {protocol}")));
                }
                self.protocol = protocol;
            }
            0x95 => {
                let length = self.length(8)?;
                if length > self.rest.len() {
                    return Err(incomplete());
                }
            }
            b'P' | b'Q' => return Err(refused("it has persistent ids")),
            0x82..=0x84 => return Err(refused("it uses the extension registry")),
            0x97 | 0x98 => return Err(refused("it has buffers out of band")),
            _ => return Err(wrong(&format!("0x{code:02x} is no instruction"))),
        }
        Ok(())
    }

    // Reading the program.

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or_else(incomplete)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH]> {
        self.take(LENGTH)?.try_into().map_err(|_| incomplete())
    }

    /// An unsigned integer of so many bytes, the lowest first.
    fn unsigned(&mut self, length: usize) -> Result<u64> {
        Ok(self.take(length)?.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn length(&mut self, length: usize) -> Result<usize> {
        usize::try_from(self.unsigned(length)?).map_err(|_| incomplete())
    }

    fn line(&mut self) -> Result<&'a [u8]> {
        let end = memchr::memchr(b'\n', self.rest).ok_or_else(incomplete)?;
        let line = self.take(end)?;
        self.take(1)?;
        Ok(line)
    }

    fn line_text(&mut self) -> Result<String> {
        let line = self.line()?;
        std::str::from_utf8(line).map(str::to_owned).map_err(|_| wrong("a name is not UTF-8"))
    }

    fn line_ascii(&mut self) -> Result<&'a str> {
        let line = self.line()?;
        std::str::from_utf8(line).map(str::trim_ascii).map_err(|_| wrong("a number is no ASCII"))
    }

    fn number(&mut self, code: u8) -> Result<Value> {
        Ok(match code {
            b'J' => Value::Int(i64::from(i32::from_le_bytes(self.array()?))),
            b'K' => Value::Int(self.unsigned(1)? as i64),
            b'M' => Value::Int(self.unsigned(2)? as i64),
            b'G' => Value::Float(f64::from_be_bytes(self.array()?)),
            b'F' => {
                let text = self.line_ascii()?;
                Value::Float(text.parse().map_err(|_| wrong(&format!("`{text}` is no float")))?)
            }
            0x8a | 0x8b => {
                let length = self.length(if code == 0x8a { 1 } else { 4 })?;
                let bytes = self.take(length)?;
                Value::integer(integer_from_bytes(bytes)?)
            }
            _ => {
                let text = self.line_ascii()?;
                match text {
                    "00" if code == b'I' => Value::Bool(false),
                    "01" if code == b'I' => Value::Bool(true),
                    _ => {
                        let digits = if code == b'L' { text.strip_suffix('L').unwrap_or(text) } else { text };
                        Value::integer(
                            parse_integer(digits)?
                                .ok_or_else(|| wrong(&format!("`{digits}` is no integer")))?,
                        )
                    }
                }
            }
        })
    }

    fn text(&mut self, code: u8) -> Result<Value> {
        match code {
            b'V' => {
                let line = self.line()?;
                return raw_unicode_escape(line);
            }
            b'S' => {
                let line = self.line()?.trim_ascii();
                return quoted(line);
            }
            // Strings of Python 2, which Python 3 reads as ASCII.
            b'T' | b'U' => {
                let length = self.length(if code == b'U' { 1 } else { 4 })?;
                return ascii(self.take(length)?);
            }
            _ => {}
        }
        let length = self.length(match code {
            0x8c => 1,
            b'X' => 4,
            _ => 8,
        })?;
        text::from_utf8(self.take(length)?).ok_or_else(|| wrong("a text is not UTF-8"))
    }

    // The stack and the memo.

    /// Objects that no list holds any more stay, so they are counted here too.
    fn push(&mut self, object: Object) -> Result<()> {
        if self.objects.len() >= self.most_objects {
            return Err(Error::LimitExceeded {
                limit: "values",
                allowed: self.most_objects,
                what: "the number of objects in a pickle".to_owned(),
            });
        }
        let id = Id::try_from(self.objects.len()).map_err(|_| wrong("it has too many objects"))?;
        self.objects.push(object);
        self.stack.push(id);
        Ok(())
    }

    fn plain(&mut self, value: Value) -> Result<()> {
        self.push(Object::Plain(value))
    }

    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Id> {
        if self.stack.len() <= self.floor() {
            return Err(wrong("the stack is empty"));
        }
        self.stack.pop().ok_or_else(|| wrong("the stack is empty"))
    }

    fn top(&self) -> Result<Id> {
        self.stack[self.floor()..].last().copied().ok_or_else(|| wrong("the stack is empty"))
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Id>> {
        let start = self.stack.len().checked_sub(count).filter(|start| *start >= self.floor());
        Ok(self.stack.split_off(start.ok_or_else(|| wrong("the stack is empty"))?))
    }

    /// Everything above the innermost mark.
    fn pop_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().ok_or_else(|| wrong("there is no mark"))?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn pop_text(&mut self) -> Result<String> {
        let id = self.pop()?;
        match self.object(id) {
            Some(Object::Plain(Value::Text(text))) => Ok(text.clone()),
            _ => Err(wrong("a name is no text")),
        }
    }

    fn object(&self, id: Id) -> Option<&Object> {
        self.objects.get(id as usize)
    }

    fn place(&mut self, code: u8) -> Result<u64> {
        match code {
            b'q' | b'h' => self.unsigned(1),
            b'r' | b'j' => self.unsigned(4),
            _ => {
                let line = self.line_ascii()?;
                line.parse().map_err(|_| wrong(&format!("`{line}` is no place in the memo")))
            }
        }
    }

    fn memoize(&mut self, code: u8) -> Result<()> {
        let place = if code == 0x94 { self.memo.len() } else { self.place(code)? };
        let top = self.top()?;
        self.memo.insert(place, top);
        Ok(())
    }

    // Changing objects.

    fn top_object(&mut self) -> Result<&mut Object> {
        let top = self.top()?;
        self.objects.get_mut(top as usize).ok_or_else(|| wrong("the stack is empty"))
    }

    fn append(&mut self, items: Vec<Id>) -> Result<()> {
        match self.top_object()? {
            Object::List(list) => list.extend(items),
            Object::Instance(instance) => instance.items.extend(items),
            _ => return Err(wrong("it appends to what is no list")),
        }
        Ok(())
    }

    fn add(&mut self, items: Vec<Id>) -> Result<()> {
        match self.top_object()? {
            Object::Set(set) => set.extend(items),
            Object::Instance(instance) => instance.items.extend(items),
            _ => return Err(wrong("it adds to what is no set")),
        }
        Ok(())
    }

    fn set_items(&mut self, members: &[Id]) -> Result<()> {
        let members = pairs(members)?;
        match self.top_object()? {
            Object::Dict(dict) => dict.extend(members),
            Object::Instance(instance) => instance.entries.extend(members),
            _ => return Err(wrong("it sets members of what is no dict")),
        }
        Ok(())
    }

    // Names and instances.

    fn name(&mut self, module: String, name: String) -> Result<()> {
        if name.is_empty() {
            return Err(wrong("a name is empty"));
        }
        // Names of Python 2, which Python 3 translates in the protocols of then.
        let module = match module.as_str() {
            "__builtin__" | "exceptions" if self.protocol < 3 => "builtins".to_owned(),
            "copy_reg" if self.protocol < 3 => "copyreg".to_owned(),
            _ => module,
        };
        let name = match (module.as_str(), name.as_str()) {
            ("builtins", "unicode") if self.protocol < 3 => "str".to_owned(),
            ("builtins", "long") if self.protocol < 3 => "int".to_owned(),
            ("builtins", "xrange") if self.protocol < 3 => "range".to_owned(),
            _ => name,
        };
        self.push(Object::Name(Box::new(Name { module, name })))
    }

    fn instance(&mut self, code: u8) -> Result<()> {
        match code {
            b'b' => {
                let state = self.pop()?;
                match self.top_object()? {
                    Object::Instance(instance) if instance.state.is_none() => {
                        instance.state = Some(state);
                        Ok(())
                    }
                    _ => Err(wrong("it gives a state to what has none, or has one")),
                }
            }
            b'R' => {
                let args = self.pop_tuple()?;
                let callable = self.pop()?;
                self.call(callable, args)
            }
            0x81 => {
                let args = self.pop_tuple()?;
                let class = self.pop()?;
                self.make(class, OpaqueKind::New, args, Vec::new())
            }
            0x92 => {
                let kwargs = self.pop()?;
                let args = self.pop_tuple()?;
                let class = self.pop()?;
                let Some(Object::Dict(kwargs)) = self.object(kwargs) else {
                    return Err(wrong("keyword arguments are no dict"));
                };
                let kwargs = kwargs.clone();
                self.make(class, OpaqueKind::New, args, kwargs)
            }
            b'i' => {
                let module = self.line_text()?;
                let name = self.line_text()?;
                let args = self.pop_mark()?;
                self.name(module, name)?;
                let class = self.pop()?;
                self.make(class, OpaqueKind::Call, args, Vec::new())
            }
            _ => {
                let mut args = self.pop_mark()?;
                if args.is_empty() {
                    return Err(wrong("an instance of nothing"));
                }
                let class = args.remove(0);
                self.make(class, OpaqueKind::Call, args, Vec::new())
            }
        }
    }

    fn pop_tuple(&mut self) -> Result<Vec<Id>> {
        let id = self.pop()?;
        match self.object(id) {
            Some(Object::Tuple(items)) => Ok(items.clone()),
            _ => Err(wrong("arguments are no tuple")),
        }
    }

    /// A call, with the functions resolved by which pickles say how something is made.
    fn call(&mut self, callable: Id, args: Vec<Id>) -> Result<()> {
        let Some(Object::Name(called)) = self.object(callable) else {
            return Err(refused("it calls something other than a class or function by its name"));
        };
        match (called.module.as_str(), called.name.as_str(), args.as_slice()) {
            ("copyreg", "_reconstructor", [class, base, state]) => {
                let from_object =
                    matches!(self.object(*base), Some(Object::Name(base)) if base.name == "object");
                let args = if from_object { Vec::new() } else { vec![*state] };
                self.make(*class, OpaqueKind::New, args, Vec::new())
            }
            ("copyreg", "__newobj__", [class, args @ ..]) => {
                self.make(*class, OpaqueKind::New, args.to_vec(), Vec::new())
            }
            ("copyreg", "__newobj_ex__", [class, args, kwargs]) => {
                match (self.object(*args), self.object(*kwargs)) {
                    (Some(Object::Tuple(args)), Some(Object::Dict(kwargs))) => {
                        let (args, kwargs) = (args.clone(), kwargs.clone());
                        self.make(*class, OpaqueKind::New, args, kwargs)
                    }
                    _ => Err(wrong("arguments are no tuple")),
                }
            }
            // An attribute of a class is a name too.
            ("builtins", "getattr", [class, attribute]) => {
                match (self.object(*class), self.object(*attribute)) {
                    (Some(Object::Name(class)), Some(Object::Plain(Value::Text(attribute)))) => {
                        let (module, name) = (class.module.clone(), format!("{}.{attribute}", class.name));
                        self.push(Object::Name(Box::new(Name { module, name })))
                    }
                    _ => self.make(callable, OpaqueKind::Call, args, Vec::new()),
                }
            }
            _ => self.make(callable, OpaqueKind::Call, args, Vec::new()),
        }
    }

    fn make(&mut self, class: Id, kind: OpaqueKind, args: Vec<Id>, kwargs: Vec<(Id, Id)>) -> Result<()> {
        let Some(Object::Name(class)) = self.object(class) else {
            return Err(refused("it makes an instance of something other than a class by its name"));
        };
        let class = Name::clone(class);
        self.push(Object::Instance(Box::new(Instance {
            class,
            kind,
            args,
            kwargs,
            state: None,
            items: Vec::new(),
            entries: Vec::new(),
        })))
    }
}

/// What a pickle refers to again, by numbers. They are given one after the other, or, in old protocols, at will.
#[derive(Default)]
struct Memo {
    /// The places from zero on without a gap.
    first: Vec<Id>,
    others: HashMap<u64, Id>,
}

impl Memo {
    fn len(&self) -> u64 {
        (self.first.len() + self.others.len()) as u64
    }

    fn get(&self, place: u64) -> Option<Id> {
        let first = usize::try_from(place).ok().and_then(|place| self.first.get(place));
        first.or_else(|| self.others.get(&place)).copied()
    }

    fn insert(&mut self, place: u64, id: Id) {
        let index = usize::try_from(place).unwrap_or(usize::MAX);
        if let Some(known) = self.first.get_mut(index) {
            *known = id;
        } else if index == self.first.len() {
            self.others.remove(&place);
            self.first.push(id);
        } else {
            self.others.insert(place, id);
        }
    }
}

fn incomplete() -> Error {
    wrong("it is incomplete")
}

fn pairs(members: &[Id]) -> Result<Vec<(Id, Id)>> {
    let (pairs, rest) = members.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(wrong("a key without a value"));
    }
    Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect())
}

fn ascii(bytes: &[u8]) -> Result<Value> {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.is_ascii() => Ok(Value::from(text)),
        _ => Err(wrong("a string of Python 2 is not ASCII")),
    }
}

/// A text of protocol 0: Latin-1, with `\uXXXX` and `\UXXXXXXXX`.
fn raw_unicode_escape(line: &[u8]) -> Result<Value> {
    let mut builder = TextBuilder::default();
    let mut at = 0;
    while let Some(byte) = line.get(at) {
        let digits = match line.get(at + 1) {
            Some(b'u') if *byte == b'\\' => 4,
            Some(b'U') if *byte == b'\\' => 8,
            _ => 0,
        };
        if digits == 0 {
            builder.push(char::from(*byte));
            // A backslash before a backslash begins no escape.
            if *byte == b'\\' && line.get(at + 1) == Some(&b'\\') {
                builder.push('\\');
                at += 1;
            }
            at += 1;
            continue;
        }
        let escape = line.get(at + 2..at + 2 + digits).and_then(hexadecimal);
        if !escape.is_some_and(|code| builder.push_code(code)) {
            return Err(wrong("a text has a broken escape"));
        }
        at += 2 + digits;
    }
    Ok(builder.finish())
}

fn hexadecimal(digits: &[u8]) -> Option<u32> {
    digits
        .iter()
        .try_fold(0_u32, |value, digit| char::from(*digit).to_digit(16).map(|digit| value << 4 | digit))
}

/// A string of Python 2 in protocol 0, as its `repr`.
fn quoted(line: &[u8]) -> Result<Value> {
    let broken = || wrong("a string has no quotes, or a broken escape");
    let ([b'"', inside @ .., b'"'] | [b'\'', inside @ .., b'\'']) = line else { return Err(broken()) };
    let mut out = Vec::with_capacity(inside.len());
    let mut bytes = inside.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let meant = match bytes.next().ok_or_else(broken)? {
            escape @ (b'\\' | b'\'' | b'"') => escape,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'a' => 7,
            b'b' => 8,
            b'v' => 11,
            b'f' => 12,
            b'x' => {
                let digits = [bytes.next().ok_or_else(broken)?, bytes.next().ok_or_else(broken)?];
                hexadecimal(&digits).ok_or_else(broken)? as u8
            }
            digit @ b'0'..=b'7' => {
                let mut value = u32::from(digit - b'0');
                for _ in 0..2 {
                    let Some(digit) = bytes.next_if(|digit| matches!(digit, b'0'..=b'7')) else { break };
                    value = value * 8 + u32::from(digit - b'0');
                }
                value as u8
            }
            other => {
                out.push(b'\\');
                other
            }
        };
        out.push(meant);
    }
    ascii(&out)
}
