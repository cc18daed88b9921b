//! Many messages from one: each with an id and a delivery tag of its own, which say its number, and of the same size.

use serde_json::Value;

/// A real message as it lies in a list of Redis.
pub(crate) struct Template {
    text: String,
    id: String,
    tag: String,
}

/// As long as a UUID.
const ID_LENGTH: usize = 36;

/// The id of a message.
pub(crate) fn id_of(number: usize) -> String {
    format!("{number:08x}-0000-4000-8000-000000000001")
}

fn tag_of(number: usize) -> String {
    format!("{number:08x}-0000-4000-8000-000000000002")
}

/// The number that an id or a tag says.
pub(crate) fn number_of(id: &[u8]) -> Option<usize> {
    usize::from_str_radix(std::str::from_utf8(id.get(..8)?).ok()?, 16).ok()
}

impl Template {
    /// Reads one from a file.
    pub(crate) fn read(path: &str) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        let message: Value = serde_json::from_str(&text).unwrap();
        let part = |value: &Value| value.as_str().unwrap().to_owned();
        let id = part(&message["headers"]["id"]);
        let tag = part(&message["properties"]["delivery_tag"]);
        assert!(id.len() == ID_LENGTH && tag.len() == ID_LENGTH, "ids of another length");
        Self { text, id, tag }
    }

    /// The message with this number.
    pub(crate) fn message(&self, number: usize) -> String {
        self.text.replace(&self.id, &id_of(number)).replace(&self.tag, &tag_of(number))
    }

    /// Where in a message its task id and its delivery tag are; the same in all.
    #[allow(dead_code)] // One program looks for them.
    pub(crate) fn places(&self) -> [std::ops::Range<usize>; 2] {
        [&self.id, &self.tag].map(|part| {
            let begin = self.text.find(part.as_str()).unwrap();
            begin..begin + ID_LENGTH
        })
    }
}

/// Which of the numbers came, and that none came twice.
pub(crate) struct Seen(Vec<bool>);

impl Seen {
    /// Numbers from 0 to below `count`.
    pub(crate) fn new(count: usize) -> Self {
        Self(vec![false; count])
    }

    /// Notes one.
    pub(crate) fn note(&mut self, number: usize) {
        let seen = self.0.get_mut(number).unwrap_or_else(|| panic!("{number} was not sent"));
        assert!(!std::mem::replace(seen, true), "{number} came twice");
    }

    /// Fails unless all came.
    pub(crate) fn check(&self) {
        let missing = self.0.iter().filter(|seen| !**seen).count();
        assert!(missing == 0, "{missing} did not come");
    }
}
