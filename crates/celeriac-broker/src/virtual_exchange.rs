//! Exchanges on brokers that have only queues: which queues a routing key leads to (`kombu.transport.virtual`).

use crate::transport::ExchangeType;

/// Whether a binding lets a routing key through.
///
/// Topic bindings match as kombu's virtual transports do, which is not as `RabbitMQ` does: `a.#` does not match `a`.
/// There is no headers exchange.
pub(crate) fn binds(kind: ExchangeType, binding_key: &str, routing_key: &str) -> bool {
    match kind {
        ExchangeType::Direct => binding_key == routing_key,
        ExchangeType::Topic => topic_matches(binding_key, routing_key),
        ExchangeType::Fanout => true,
        ExchangeType::Headers => false,
    }
}

/// The queues that `routing_key` leads to, each once, in the order of the table: (binding key, queue).
pub(crate) fn queues_for<'a>(
    kind: ExchangeType,
    table: impl IntoIterator<Item = (&'a str, &'a str)>,
    routing_key: &str,
) -> Vec<&'a str> {
    let mut queues = Vec::new();
    for (binding_key, queue) in table {
        if binds(kind, binding_key, routing_key) && !queues.contains(&queue) {
            queues.push(queue);
        }
    }
    queues
}

/// One step of a topic pattern. kombu makes a regular expression of the pattern; these are all that can be in it.
enum Step {
    /// This character.
    Literal(char),
    /// This character any number of times: a star inside a word is a quantifier in kombu's expression.
    Repeat(char),
    /// `*` alone: at least one character, none of them a dot.
    Word,
    /// `#` alone: anything, dots too, but no line break.
    Anything,
}

/// `None` when kombu's regular expression would not compile (a quantifier after nothing or after another).
fn steps(pattern: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::with_capacity(pattern.len());
    for (index, word) in pattern.split('.').enumerate() {
        if index > 0 {
            steps.push(Step::Literal('.'));
        }
        match word {
            "*" => steps.push(Step::Word),
            "#" => steps.push(Step::Anything),
            _ => {
                // A star at the start of a later word repeats the dot before it.
                let mut quantifiable = index > 0;
                for character in word.chars() {
                    if character != '*' {
                        steps.push(Step::Literal(character));
                        quantifiable = true;
                    } else if let (true, Some(Step::Literal(repeated))) = (quantifiable, steps.pop()) {
                        steps.push(Step::Repeat(repeated));
                        quantifiable = false;
                    } else {
                        return None;
                    }
                }
            }
        }
    }
    Some(steps)
}

fn topic_matches(pattern: &str, key: &str) -> bool {
    if !pattern.contains(['*', '#']) {
        return pattern == key;
    }
    let Some(steps) = steps(pattern) else { return false };
    let key: Vec<char> = key.chars().collect();
    // reached[n]: the steps so far can end after n characters.
    let mut reached = vec![false; key.len() + 1];
    reached[0] = true;
    for step in steps {
        let mut next = vec![false; key.len() + 1];
        next[0] = reached[0] && matches!(step, Step::Repeat(_) | Step::Anything);
        for (index, &character) in key.iter().enumerate() {
            let end = index + 1;
            next[end] = match step {
                Step::Literal(literal) => reached[index] && character == literal,
                Step::Repeat(repeated) => reached[end] || (next[index] && character == repeated),
                Step::Word => (reached[index] || next[index]) && character != '.',
                Step::Anything => reached[end] || (next[index] && character != '\n'),
            };
        }
        reached = next;
    }
    reached[key.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_match_as_in_kombu() {
        let vectors: serde_json::Value = serde_json::from_str(include_str!(
            "../../celeriac-protocol/tests/golden/virtual_topic_matching.json"
        ))
        .unwrap();
        let rows = vectors["rows"].as_array().unwrap();
        assert!(!rows.is_empty());
        for row in rows {
            let (pattern, key) = (row["pattern"].as_str().unwrap(), row["key"].as_str().unwrap());
            let expected = row["match"].as_bool().unwrap();
            assert_eq!(binds(ExchangeType::Topic, pattern, key), expected, "{pattern:?} on {key:?}");
        }
    }

    #[test]
    fn a_star_inside_a_word_repeats_what_precedes_it_as_in_kombu() {
        for (pattern, key, expected) in [
            ("a.*b", "a...b", true),
            ("a.*b", "ab", true),
            ("a.*b", "a.xb", false),
            ("b**", "b", false),
            ("ab*", "a", true),
            ("ab*", "abbb", true),
            ("ab*", "abc", false),
            ("a-*.b", "a--.b", true),
            ("**", "anything", false),
            ("x#", "x#", true),
            ("x#", "xy", false),
        ] {
            assert_eq!(binds(ExchangeType::Topic, pattern, key), expected, "{pattern:?} on {key:?}");
        }
    }

    #[test]
    fn direct_compares_and_fanout_ignores_the_key() {
        assert!(binds(ExchangeType::Direct, "a.*", "a.*"));
        assert!(!binds(ExchangeType::Direct, "a.*", "a.b"));
        assert!(binds(ExchangeType::Fanout, "a", "b"));
        assert!(!binds(ExchangeType::Headers, "a", "a"));
    }

    #[test]
    fn a_queue_that_is_bound_twice_is_named_once() {
        let table = [("a.*", "first"), ("b", "second"), ("a.#", "first"), ("#", "third")];
        assert_eq!(queues_for(ExchangeType::Topic, table, "a.b"), ["first", "third"]);
        assert!(queues_for(ExchangeType::Direct, table, "c").is_empty());
    }
}
