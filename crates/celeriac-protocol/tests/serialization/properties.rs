//! Whatever value there is, a serializer carries it or refuses it.

use celeriac_protocol::serialization::{Exception, Value, from_utf16};
use num_bigint::BigInt;
use proptest::prelude::*;

use crate::support::{arrived, canonical, decode, encode, tagged};

/// Characters that serializers have to look at twice.
fn text() -> impl Strategy<Value = String> {
    let special = prop::sample::select(vec![
        "",
        "yes",
        "null",
        "~",
        "1",
        "0x1",
        "1e3",
        "2020-01-01",
        "=",
        "<<",
        "- a",
        "a: b",
        "# c",
        "'",
        "\"",
        "\\",
        "\n",
        " a ",
        "\t",
        "\0",
        "\u{85}",
        "\u{2028}",
        "\u{feff}",
        "\u{fffe}",
        "😀",
        "__type__",
        "__value__",
        "\u{7f}",
        "---",
    ]);
    prop_oneof![special.prop_map(str::to_owned), any::<String>()]
}

fn day() -> impl Strategy<Value = String> {
    (1..=9999_u16, 1..=12_u8, 1..=28_u8)
        .prop_map(|(year, month, day)| format!("{year:04}-{month:02}-{day:02}"))
}

fn clock() -> impl Strategy<Value = String> {
    let fraction =
        prop_oneof![Just(String::new()), (1..1_000_000_u32).prop_map(|part| format!(".{part:06}"))];
    let offset = prop_oneof![
        Just(String::new()),
        (any::<bool>(), 0..24_u8, 0..60_u8).prop_map(|(east, hours, minutes)| {
            let sign = if east || hours + minutes == 0 { '+' } else { '-' };
            format!("{sign}{hours:02}:{minutes:02}")
        }),
    ];
    (0..24_u8, 0..60_u8, 0..60_u8, fraction, offset).prop_map(|(hour, minute, second, fraction, offset)| {
        format!("{hour:02}:{minute:02}:{second:02}{fraction}{offset}")
    })
}

fn plain() -> BoxedStrategy<Value> {
    prop_oneof![
        Just(Value::None),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        (-300..300_i64).prop_map(Value::Int),
        any::<f64>().prop_map(Value::Float),
        prop::sample::select(vec![f64::NAN, f64::INFINITY, -0.0, 1e16, 1e-5, 5e-324]).prop_map(Value::Float),
        text().prop_map(Value::Text),
    ]
    .boxed()
}

fn special() -> BoxedStrategy<Value> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40)
            .prop_map(|bytes| Value::integer(BigInt::from_signed_bytes_le(&bytes))),
        prop::collection::vec(prop_oneof![0xd7f0..0xe010_u16, any::<u16>()], 0..6).prop_map(from_utf16),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Value::Bytes),
        (day(), clock()).prop_map(|(day, clock)| Value::DateTime(format!("{day}T{clock}"))),
        day().prop_map(Value::Date),
        clock().prop_map(Value::Time),
        (-999_999_999..=999_999_998_i64, any::<i32>(), any::<i32>()).prop_filter_map(
            "in range",
            |(days, seconds, microseconds)| {
                Value::time_delta(days, i64::from(seconds), i64::from(microseconds)).ok()
            }
        ),
        (any::<i64>(), -40..40_i32)
            .prop_map(|(digits, exponent)| Value::Decimal(format!("{digits}E{exponent:+}"))),
        any::<[u8; 16]>().prop_map(|bytes| Value::Uuid(uuid::Uuid::from_bytes(bytes))),
        (any::<f64>(), any::<f64>()).prop_map(|(real, imaginary)| Value::Complex { real, imaginary }),
    ]
    .boxed()
}

/// Values of these leaves, in containers with these keys.
fn values(
    leaves: BoxedStrategy<Value>,
    keys: BoxedStrategy<Value>,
    everything: bool,
) -> BoxedStrategy<Value> {
    leaves
        .prop_recursive(5, 60, 6, move |inner| {
            let list = prop::collection::vec(inner.clone(), 0..6);
            let dict = prop::collection::vec((keys.clone(), inner.clone()), 0..6).prop_map(dict);
            let set = prop::collection::vec(keys.clone(), 0..6).prop_map(set);
            let exception = (list.clone(), any::<bool>()).prop_map(|(args, own)| {
                let (module, kind) = if own { ("tasks", "Oops") } else { ("builtins", "ValueError") };
                let (module, kind) = (module.to_owned(), kind.to_owned());
                Value::Exception(Box::new(Exception { module, kind, args, state: None }))
            });
            if !everything {
                return prop_oneof![
                    list.clone().prop_map(Value::List),
                    list.prop_map(Value::Tuple),
                    dict.prop_map(Value::Dict),
                ]
                .boxed();
            }
            prop_oneof![
                list.clone().prop_map(Value::List),
                list.prop_map(Value::Tuple),
                dict.prop_map(Value::Dict),
                set.clone().prop_map(Value::Set),
                set.prop_map(Value::FrozenSet),
                exception,
            ]
            .boxed()
        })
        .boxed()
}

/// Without keys that Python takes for equal.
fn dict(pairs: Vec<(Value, Value)>) -> Vec<(Value, Value)> {
    let mut kept: Vec<(Value, Value)> = Vec::new();
    for (key, value) in pairs {
        if !kept.iter().any(|(other, _)| equal(other, &key)) {
            kept.push((key, value));
        }
    }
    kept
}

fn set(members: Vec<Value>) -> Vec<Value> {
    dict(members.into_iter().map(|member| (member, Value::None)).collect())
        .into_iter()
        .map(|pair| pair.0)
        .collect()
}

fn equal(left: &Value, right: &Value) -> bool {
    let number = |value: &Value| match value {
        Value::Bool(value) => Some(f64::from(u8::from(*value))),
        Value::Int(value) => Some(*value as f64),
        Value::Float(value) => Some(*value),
        Value::BigInt(value) => value.to_string().parse().ok(),
        _ => None,
    };
    match (number(left), number(right)) {
        (Some(left), Some(right)) => left.partial_cmp(&right) == Some(std::cmp::Ordering::Equal),
        _ => canonical(left) == canonical(right),
    }
}

fn texts() -> BoxedStrategy<Value> {
    text().prop_map(Value::Text).boxed()
}

fn hashable() -> BoxedStrategy<Value> {
    prop_oneof![plain(), special()]
        .prop_filter("compared by identity", |value| {
            !matches!(value, Value::Float(value) if value.is_nan()) && !matches!(value, Value::Complex { .. })
        })
        .boxed()
}

fn anything() -> BoxedStrategy<Value> {
    values(prop_oneof![plain(), special()].boxed(), hashable(), true)
}

/// Carried as the value that arrives at the other end.
fn assert_carried(name: &str, value: &Value) {
    let body = encode(name, value).unwrap();
    let decoded = decode(name, &body).unwrap();
    assert_eq!(canonical(&decoded), canonical(&arrived(name, value)), "{name}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn tagged_json_loses_nothing(value in anything()) {
        let text = tagged(&value);
        let again = Value::from_tagged_json(&text).unwrap();
        prop_assert_eq!(tagged(&again), text);
        prop_assert_eq!(canonical(&again), canonical(&value));
    }

    #[test]
    fn pickle_carries_anything(value in anything()) {
        assert_carried("pickle", &value);
    }

    #[test]
    fn json_carries_plain_data(value in values(plain(), texts(), false)) {
        if let Ok(body) = encode("json", &value) {
            let decoded = decode("json", &body).unwrap();
            prop_assert_eq!(canonical(&decoded), canonical(&arrived("json", &value)));
        } else {
            prop_assert!(tagged(&value).contains("__type__"));
        }
    }

    #[test]
    fn msgpack_carries_plain_data(value in values(plain(), texts(), false)) {
        assert_carried("msgpack", &value);
    }

    #[test]
    fn yaml_carries_plain_data_of_whatever_keys(value in values(plain(), hashable().prop_filter(
        "that YAML has",
        |key| !matches!(key, Value::Time(_) | Value::TimeDelta { .. } | Value::Decimal(_) | Value::Uuid(_)),
    ).boxed(), false)) {
        // Texts with half a character in them are refused.
        if encode("yaml", &value).is_ok() {
            assert_carried("yaml", &value);
        } else {
            prop_assert!(tagged(&value).contains("\\ud"));
        }
    }

    /// What is written is read, or was refused: there is nothing in between.
    #[test]
    fn what_is_refused_is_an_error_and_nothing_else(value in anything()) {
        for name in ["json", "yaml", "msgpack"] {
            match encode(name, &value) {
                Ok(body) => match decode(name, &body) {
                    Ok(decoded) => {
                        // Keys become texts in JSON, and may become equal.
                        if name != "json" {
                            prop_assert_eq!(canonical(&decoded), canonical(&arrived(name, &value)));
                        }
                    }
                    Err(error) => prop_assert!(name == "msgpack", "{}: {}", name, error),
                },
                Err(error) => prop_assert_eq!(error.code(), "ERR_CELERIAC_ENCODE"),
            }
        }
    }
}
