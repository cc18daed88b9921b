//! What nobody means well with: it is refused, soon, and the limit is named.

use std::fmt::Write as _;
use std::ops::Range;

use celeriac_error::Error;
use celeriac_protocol::serialization::{Limits, MAX_INTEGER_DIGITS, Value};

use crate::support::{base64, decode, encode, golden, serializer, tagged};

fn refused_by(limit: &str, name: &str, body: &[u8], limits: &Limits) {
    match (serializer(name).decode)(body, limits) {
        Err(Error::LimitExceeded { limit: actual, .. }) => assert_eq!(actual, limit, "{name}"),
        other => panic!("{name}: {} instead of the limit `{limit}`", shown(&other)),
    }
}

fn shown(result: &celeriac_error::Result<Value>) -> String {
    format!("{result:?}").chars().take(200).collect()
}

fn joined(range: Range<usize>, text: impl Fn(usize) -> String) -> String {
    range.map(text).collect::<Vec<_>>().concat()
}

/// Lists in one another, so many of them.
fn nested(name: &str, levels: usize) -> Vec<u8> {
    match name {
        "json" | "yaml" => format!("{}{}", "[".repeat(levels), "]".repeat(levels)).into_bytes(),
        "msgpack" => [vec![0x91; levels - 1], vec![0x90]].concat(),
        _ => [vec![b']'; levels], vec![b'a'; levels - 1], vec![b'.']].concat(),
    }
}

const NAMES: [&str; 4] = ["json", "yaml", "msgpack", "pickle"];

#[test]
fn nesting_is_read_and_written_to_a_depth_and_no_further() {
    // As much stack as a thread of tokio has.
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(|| {
        for name in NAMES {
            let deepest = decode(name, &nested(name, 201)).unwrap();
            assert_eq!(encode(name, &deepest).map(|body| decode(name, &body).unwrap()).unwrap(), deepest);
            assert_eq!(Value::from_tagged_json(&tagged(&deepest)).unwrap(), deepest);
            for levels in [202, 10_000, 1_000_000] {
                refused_by("depth", name, &nested(name, levels), &Limits::default());
            }
            refused_by("depth", name, &nested(name, 12), &Limits { depth: 10, ..Limits::default() });
            let too_deep = Value::List(vec![deepest]);
            assert_eq!(encode(name, &too_deep).unwrap_err().code(), "ERR_CELERIAC_ENCODE");
            assert!(too_deep.to_tagged_json(&mut String::new()).is_err());
        }
        // Each level of these is several of JSON.
        let mut value = Value::Dict(vec![(Value::Int(1), Value::None)]);
        for _ in 0..200 {
            value = Value::Dict(vec![(Value::Int(1), value)]);
        }
        assert_eq!(Value::from_tagged_json(&tagged(&value)).unwrap(), value);
        assert_eq!(decode("pickle", &encode("pickle", &value).unwrap()).unwrap(), value);
        let tag = r#"{"__type__": "tuple", "__value__": ["#;
        let text = format!("{}{}", tag.repeat(100_000), "]}".repeat(100_000));
        assert!(Value::from_tagged_json(&text).is_err());
    });
    thread.unwrap().join().unwrap();
}

#[test]
fn other_ways_to_nest_are_bounded_too() {
    for body in [
        "- ".repeat(1000),
        "? ".repeat(1000),
        "{a: ".repeat(1000),
        "[? ".repeat(1000),
        "[a: ".repeat(1000),
        joined(0..1000, |level| format!("{}a:\n", " ".repeat(level))),
    ] {
        refused_by("depth", "yaml", body.as_bytes(), &Limits::default());
    }
    // Mappings that are merged by aliases, each of the one before.
    let chain = joined(1..1000, |at| format!(", a{at}: &a{at} {{<<: *a{}}}", at - 1));
    let result = decode("yaml", format!("{{<<: *a0}}\n---\n{{a0: &a0 {{x: 1}}{chain}}}").as_bytes());
    assert!(result.is_err());
    let text = format!("{{a0: &a0 {{x: 1}}{chain}, <<: *a999}}");
    refused_by("depth", "yaml", text.as_bytes(), &Limits::default());
    refused_by("depth", "msgpack", &[0x81, 0xa1, b'a'].repeat(1000), &Limits::default());
    refused_by("depth", "json", "{\"a\":".repeat(1000).as_bytes(), &Limits::default());
    let tuples = [b"K\x01".as_slice(), &[0x85; 1000], b"."].concat();
    refused_by("depth", "pickle", &tuples, &Limits::default());
    let instances = [b"cm\nn\n".repeat(300), b"K\x01".to_vec(), b"\x85R".repeat(300), b".".to_vec()].concat();
    refused_by("depth", "pickle", &instances, &Limits::default());
}

#[test]
fn what_is_shared_counts_each_time_it_is_expanded() {
    let few = Limits { values: 50_000, ..Limits::default() };
    // A list of two references to a list of two references to …
    let mut yaml = "[&a0 [x, x]".to_owned();
    let mut pickle = b"]q\x00(K\x01K\x01e".to_vec();
    for level in 1_u8..40 {
        write!(yaml, ", &a{level} [*a{0}, *a{0}]", level - 1).unwrap();
        pickle.extend_from_slice(&[b'0', b']', b'q', level, b'(', b'h', level - 1, b'h', level - 1, b'e']);
    }
    yaml.push(']');
    pickle.push(b'.');
    refused_by("values", "yaml", yaml.as_bytes(), &few);
    refused_by("values", "pickle", &pickle, &few);

    // Mappings that are merged twice into each next one.
    let merges = joined(1..40, |at| format!(", &a{at} {{<<: [*a{0}, *a{0}]}}", at - 1));
    refused_by("values", "yaml", format!("[&a0 {{x: 1}}{merges}]").as_bytes(), &few);

    // A long text, many times.
    let limits = Limits { bytes: 1 << 20, ..Limits::default() };
    let text = "x".repeat(1 << 16);
    let yaml = format!("[&a {text}{}]", ", *a".repeat(100));
    refused_by("bytes", "yaml", yaml.as_bytes(), &limits);
    let pickle =
        [b"](X\0\0\x01\0".as_slice(), text.as_bytes(), b"q\x00", &b"h\x00".repeat(100), b"e."].concat();
    refused_by("bytes", "pickle", &pickle, &limits);
    let names = [b"](c".as_slice(), text.as_bytes(), b"\na\nq\x00", &b"h\x00".repeat(100), b"e."].concat();
    refused_by("bytes", "pickle", &names, &limits);
}

#[test]
fn size_and_number_are_limited_in_each_format() {
    let limits = Limits { bytes: 50, values: 10, ..Limits::default() };
    for name in NAMES {
        refused_by("bytes", name, &[b' '; 51], &limits);
        let many = encode(name, &Value::List(vec![Value::None; 10])).unwrap();
        refused_by("values", name, &many, &Limits { bytes: 1000, ..limits });
        let few = encode(name, &Value::List(vec![Value::None; 8])).unwrap();
        assert!((serializer(name).decode)(&few, &Limits { bytes: 1000, ..limits }).is_ok(), "{name}");
    }
    for name in ["raw", "text"] {
        refused_by("bytes", name, &[b' '; 51], &limits);
    }
    // Objects that the machine makes and throws away.
    refused_by("values", "pickle", &[b"]0".repeat(20), b"N.".to_vec()].concat(), &limits);
}

#[test]
fn integers_have_as_many_digits_as_python_reads() {
    let digits = "9".repeat(MAX_INTEGER_DIGITS);
    for name in ["json", "yaml", "pickle"] {
        let longest = Value::integer(digits.parse().unwrap());
        assert_eq!(decode(name, &encode(name, &longest).unwrap()).unwrap(), longest);
        let too_long = Value::integer(format!("{digits}0").parse().unwrap());
        refused_by("integer digits", name, &encode(name, &too_long).unwrap(), &Limits::default());
    }
    for body in ["0x", "0b1", "01", "1:1"] {
        let body = format!("{body}{}", if body.contains(':') { ":1" } else { "1" }.repeat(1 << 20));
        refused_by("integer digits", "yaml", body.as_bytes(), &Limits::default());
    }
    let body = [b"\x8b\0\0\x10\0".as_slice(), &vec![1; 1 << 20], b"."].concat();
    refused_by("integer digits", "pickle", &body, &Limits::default());
    refused_by("integer digits", "pickle", format!("I{digits}0\n.").as_bytes(), &Limits::default());
    let tag = format!(r#"{{"__type__": "int", "__value__": "{digits}0"}}"#);
    assert!(matches!(Value::from_tagged_json(&tag), Err(Error::LimitExceeded { .. })));
}

#[test]
fn lengths_that_are_not_there_cost_nothing() {
    for body in [
        b"\xdd\xff\xff\xff\xff".as_slice(),
        b"\xdf\xff\xff\xff\xff\xc0",
        b"\xdb\xff\xff\xff\xffa",
        b"\xc6\xff\xff\xff\xffa",
        b"\xc9\xff\xff\xff\xff\x05a",
        b"\xc1",
        b"\xc7\x01\xffa",
        b"\xd4\xfea",
        b"\x01\x02",
        b"\xa1\xff",
        b"",
    ] {
        assert!(matches!(decode("msgpack", body), Err(Error::Decode { .. })), "{body:?}");
    }
    for body in [
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff".as_slice(),
        b"B\xff\xff\xff\xff",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fa.",
        b"\x8b\xff\xff\xff\xff.",
        b"\x95\xff\xff\xff\xff\xff\xff\xff\xffN.",
        b"r\xff\xff\xff\xff.",
        b"",
    ] {
        assert!(matches!(decode("pickle", body), Err(Error::Decode { .. })), "{body:?}");
    }
}

/// A body that is cut off anywhere ends in an error; text may also be complete before its end.
#[test]
fn a_body_that_is_cut_off_anywhere_is_refused() {
    for case in golden("task_messages_types") {
        let Some(body) = case["redis"]["body"].as_object() else { continue };
        let body = base64(&body["base64"]);
        let name = case["app_config"]["task_serializer"].as_str().unwrap();
        for end in 0..body.len() {
            let result = decode(name, &body[..end]);
            if name != "yaml" {
                assert!(result.is_err(), "{}: cut at {end}: {}", case["name"], shown(&result));
            }
        }
    }
}

#[test]
fn several_documents_and_cycles_are_refused_in_yaml() {
    for (text, why) in [
        ("a\n---\nb\n", "one document"),
        ("&a [*a]", "cyclic"),
        ("&a {b: *a}", "cyclic"),
        ("&a !!set {b: *a}", "cyclic"),
        ("!!python/object/apply:os.system [id]", "python"),
        ("!!python/name:os.system", "python"),
        ("*a", "anchor"),
        ("\u{7}", "U+0007"),
    ] {
        let error = decode("yaml", text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    assert_eq!(tagged(&decode("yaml", b"&a {<<: *a, b: 1}").unwrap()), r#"{"b": 1}"#);
    for body in [b"\xff\xfea\0".as_slice(), b"\xfe\xff\0a", b"\xef\xbb\xbfa"] {
        assert_eq!(decode("yaml", body).unwrap(), Value::from("a"));
    }
    for body in [b"\xff\xfea".as_slice(), b"\xff\xfe\0\xd8", b"\xff"] {
        assert!(decode("yaml", body).is_err());
    }
}
