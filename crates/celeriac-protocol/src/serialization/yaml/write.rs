//! One document in flow style.

use std::fmt::Write as _;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use celeriac_error::{Error, Result};

use crate::repr::push_float;
use crate::serialization::Value;
use crate::serialization::limits::check_depth;
use crate::time::{format_clock, format_date, parse_civil};

pub(super) fn encode(value: &Value) -> Result<Vec<u8>> {
    let mut out = String::new();
    push(value, &mut out, 0)?;
    out.push('\n');
    Ok(out.into_bytes())
}

fn refusal(why: &str) -> Error {
    Error::Encode { reason: format!("yaml: {why}") }
}

/// What is not a container has a function of its own, so that this one takes little of the stack.
fn push(value: &Value, out: &mut String, depth: usize) -> Result<()> {
    match value {
        Value::List(items) | Value::Tuple(items) => {
            check_depth(depth)?;
            let mut separator = "[";
            for item in items {
                out.push_str(separator);
                push(item, out, depth + 1)?;
                separator = ", ";
            }
            out.push_str(if items.is_empty() { "[]" } else { "]" });
        }
        Value::Dict(members) => {
            check_depth(depth)?;
            let mut separator = "{";
            for (key, value) in members {
                out.push_str(separator);
                push_key(key, out, depth)?;
                push(value, out, depth + 1)?;
                separator = ", ";
            }
            out.push_str(if members.is_empty() { "{}" } else { "}" });
        }
        Value::Set(members) => {
            check_depth(depth)?;
            out.push_str("!!set ");
            let mut separator = "{";
            for member in members {
                out.push_str(separator);
                push_key(member, out, depth)?;
                out.push_str("null");
                separator = ", ";
            }
            out.push_str(if members.is_empty() { "{}" } else { "}" });
        }
        other => push_plain(other, out)?,
    }
    Ok(())
}

fn push_plain(value: &Value, out: &mut String) -> Result<()> {
    match value {
        Value::None => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Int(value) => out.push_str(&value.to_string()),
        Value::BigInt(value) => out.push_str(&value.to_string()),
        Value::Float(value) => push_yaml_float(out, *value),
        Value::Text(text) => push_text(out, text),
        Value::Utf16(_) => return Err(refusal("half a character (a lone surrogate) would not be read back")),
        Value::Bytes(bytes) => {
            out.push_str("!!binary \"");
            STANDARD.encode_string(bytes, out);
            out.push('"');
        }
        Value::DateTime(text) => {
            let Some((civil, offset)) = parse_civil(text) else {
                return Err(refusal(&format!("`{text}` is no datetime")));
            };
            if offset.is_some_and(|offset| offset % 60 != 0) {
                return Err(refusal(&format!("`{text}`: no offset from UTC of seconds is read")));
            }
            let clock = format_clock(civil.time(), offset);
            let _ = write!(out, "!!timestamp \"{} {clock}\"", format_date(civil.date()));
        }
        Value::Date(text) => {
            let Some((civil, _)) = parse_civil(text) else {
                return Err(refusal(&format!("`{text}` is no date")));
            };
            let _ = write!(out, "!!timestamp \"{}\"", format_date(civil.date()));
        }
        other => return Err(refusal(&format!("no form for values of the type {}", other.type_name()))),
    }
    Ok(())
}

/// A key and its colon. A key that reaches far, or into other lines, has to be marked as one.
fn push_key(key: &Value, out: &mut String, depth: usize) -> Result<()> {
    const FAR: usize = 512;
    let start = out.len();
    push(key, out, depth + 1)?;
    if out.len() - start > FAR {
        out.insert_str(start, "? ");
        out.push(' ');
    }
    out.push_str(": ");
    Ok(())
}

fn push_yaml_float(out: &mut String, value: f64) {
    match value {
        _ if value.is_nan() => out.push_str(".nan"),
        f64::INFINITY => out.push_str(".inf"),
        f64::NEG_INFINITY => out.push_str("-.inf"),
        _ => {
            let start = out.len();
            push_float(out, value);
            // Without a point it would be read as text.
            if !out[start..].contains('.')
                && let Some(at) = out[start..].find('e')
            {
                out.insert_str(start + at, ".0");
            }
        }
    }
}

fn push_text(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        push_character(out, character);
    }
    out.push('"');
}

fn push_character(out: &mut String, character: char) {
    match character {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        ' '..='~' => out.push(character),
        _ => {
            // Writing to a string cannot fail.
            let _ = match u32::from(character) {
                code @ ..0x100 => write!(out, "\\x{code:02X}"),
                code @ ..0x1_0000 => write!(out, "\\u{code:04X}"),
                code => write!(out, "\\U{code:08X}"),
            };
        }
    }
}
