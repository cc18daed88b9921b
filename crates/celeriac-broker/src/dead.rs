//! The dead list: messages that could not be handled, kept with their original bytes and the reason.

use std::time::{SystemTime, UNIX_EPOCH};

use celeriac_error::{Error, Result};
use celeriac_protocol::envelope;
use celeriac_protocol::json;
use serde::{Deserialize, Serialize};

/// What is known of a message in the dead list, without its bytes. As JSON it is what transports keep beside them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Names it in the list.
    #[serde(skip)]
    pub id: String,
    /// The queue it was taken from; empty when that is not known.
    pub queue: String,
    /// See [`Outcome::Dead`](crate::Outcome::Dead).
    pub reason: String,
    /// See [`Outcome::Dead`](crate::Outcome::Dead).
    pub detail: String,
    /// The name of the task, where the message says one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The id of the task, where the message says one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_id: Option<String>,
    /// When it came there, in milliseconds since 1970.
    pub at_ms: u64,
    /// How many bytes it has.
    pub size: u64,
    /// Its priority, which decides the place that a replay puts it at; 0 where it has none.
    #[serde(default)]
    pub priority: u8,
}

impl DeadLetter {
    /// A message that goes to the dead list now.
    pub(crate) fn new(queue: &str, reason: &str, detail: &str, raw: &[u8]) -> Self {
        let message = envelope::decode(raw).ok();
        let priority = message.as_ref().and_then(|message| message.properties.priority).unwrap_or(0);
        let headers = message.map(|message| message.headers).unwrap_or_default();
        let members = json::object_members(headers.as_bytes()).unwrap_or_default();
        let text = |wanted: &str| {
            let (_, value) = members.iter().find(|(name, _)| name == wanted)?;
            serde_json::from_str::<String>(value).ok()
        };
        Self {
            id: String::new(),
            queue: queue.to_owned(),
            reason: reason.to_owned(),
            detail: detail.to_owned(),
            task: text("task"),
            task_id: text("id"),
            at_ms: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_millis() as u64),
            size: raw.len() as u64,
            priority,
        }
    }

    /// What transports keep beside the bytes.
    pub(crate) fn to_entry(&self) -> String {
        // Texts and numbers always have a form in JSON.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads an entry. One that cannot be read is listed all the same, with what else is known of it: what is hidden is never
    /// looked after.
    pub(crate) fn from_entry(id: &str, entry: Option<&[u8]>, at_ms: u64, size: impl FnOnce() -> u64) -> Self {
        let read = entry
            .ok_or_else(|| "it has none".to_owned())
            .and_then(|entry| serde_json::from_slice::<Self>(entry).map_err(|error| error.to_string()));
        match read {
            Ok(letter) => Self { id: id.to_owned(), ..letter },
            Err(reason) => Self {
                id: id.to_owned(),
                queue: String::new(),
                reason: "unreadable".to_owned(),
                detail: format!("the entry in the dead list cannot be read: {reason}"),
                task: None,
                task_id: None,
                at_ms,
                size: size(),
                priority: 0,
            },
        }
    }

    /// Where a replay of it goes.
    pub(crate) fn destination<'a>(&'a self, given: Option<&'a str>) -> Result<&'a str> {
        match given.unwrap_or(&self.queue) {
            "" => Err(Error::InvalidArgument {
                what: format!("dead letter {}", self.id),
                reason: "the queue that it was taken from is not known: name one".to_owned(),
            }),
            queue => Ok(queue),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_names_its_task_where_the_message_does() {
        let raw = br#"{"body": "", "headers": {"task": "t.add", "id": "1"}, "properties": {}}"#;
        let letter = DeadLetter::new("q", "rejected", "no", raw);
        assert_eq!((letter.task.as_deref(), letter.task_id.as_deref()), (Some("t.add"), Some("1")));
        assert_eq!(letter.size, raw.len() as u64);
        let letter = DeadLetter::new("q", "malformed", "no", b"not json");
        assert_eq!((letter.task, letter.task_id), (None, None));
    }

    #[test]
    fn an_entry_that_cannot_be_read_is_not_hidden() {
        let letter = DeadLetter::new("q", "rejected", "no", b"{}");
        let read = DeadLetter::from_entry("7", Some(letter.to_entry().as_bytes()), 1, || 2);
        assert_eq!(read, DeadLetter { id: "7".to_owned(), ..letter });
        for entry in [None, Some(&b"{}"[..]), Some(b"\xff")] {
            let read = DeadLetter::from_entry("7", entry, 1, || 2);
            assert_eq!(
                (read.id.as_str(), read.reason.as_str(), read.at_ms, read.size),
                ("7", "unreadable", 1, 2)
            );
        }
    }

    #[test]
    fn a_letter_of_an_unknown_queue_goes_only_where_it_is_told_to() {
        let letter = DeadLetter::new("", "malformed", "no", b"");
        assert!(matches!(letter.destination(None), Err(Error::InvalidArgument { .. })));
        assert_eq!(letter.destination(Some("q")).unwrap(), "q");
        assert_eq!(DeadLetter::new("own", "rejected", "", b"").destination(None).unwrap(), "own");
    }
}
