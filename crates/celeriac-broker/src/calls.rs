//! Many task calls in one text, which crosses from JavaScript faster than the texts of each.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use celeriac_error::{Error, Result};

/// One call of those in a text.
///
/// A call is five lines, each with its end: the number of its route; the task's id, or where that begins with a quotation mark
/// or has a line feed, the same as JSON; its arguments, a JSON array; its keyword arguments, a JSON object, or nothing for
/// none; its options ([`TaskOptions::from_json`](celeriac_protocol::task::TaskOptions::from_json)), or nothing. JSON has no
/// line feed inside.
#[derive(Clone, Debug)]
pub struct Call {
    text: Arc<String>,
    /// As [`Producer::add_route`](crate::producer::Producer::add_route) gave it.
    pub route: u32,
    task_id: Range<usize>,
    args: Range<usize>,
    kwargs: Range<usize>,
    options: Range<usize>,
}

impl Call {
    /// All calls of a text.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a text that is not of this form.
    pub fn read_all(text: String) -> Result<Vec<Self>> {
        let text = Arc::new(text);
        let mut lines = Lines { text: &text, at: 0 };
        let mut calls = Vec::new();
        while let Some(route) = lines.next() {
            let route = text[route].parse().map_err(|_| malformed("the number of a route"))?;
            let mut line = |what| lines.next().ok_or_else(|| malformed(what));
            calls.push(Self {
                route,
                task_id: line("the id of a task")?,
                args: line("the arguments")?,
                kwargs: line("the keyword arguments")?,
                options: line("the options")?,
                text: Arc::clone(&text),
            });
        }
        if lines.at < text.len() {
            return Err(malformed("the end of a line"));
        }
        Ok(calls)
    }

    /// The task's id.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for one that looks like JSON and is none.
    pub fn task_id(&self) -> Result<Cow<'_, str>> {
        let id = &self.text[self.task_id.clone()];
        if id.starts_with('"') {
            return serde_json::from_str::<String>(id)
                .map(Into::into)
                .map_err(|_| malformed("the id of a task"));
        }
        Ok(id.into())
    }

    /// A JSON array in Python's sense.
    pub fn args(&self) -> &str {
        &self.text[self.args.clone()]
    }

    /// A JSON object in Python's sense.
    pub fn kwargs(&self) -> &str {
        if self.kwargs.is_empty() { "{}" } else { &self.text[self.kwargs.clone()] }
    }

    /// What it says beyond its arguments.
    pub fn options(&self) -> Option<&str> {
        (!self.options.is_empty()).then(|| &self.text[self.options.clone()])
    }
}

fn malformed(what: &str) -> Error {
    Error::InvalidArgument { what: "calls".to_owned(), reason: format!("{what} is missing or wrong") }
}

struct Lines<'a> {
    text: &'a str,
    at: usize,
}

impl Iterator for Lines<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        let begin = self.at;
        let end = begin + memchr::memchr(b'\n', &self.text.as_bytes()[begin..])?;
        self.at = end + 1;
        Some(begin..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_the_calls_that_were_put_into_it() {
        let text = "3\nid-1\n[1,\"ä\"]\n\n\n0\n\"a\\nb\"\n[]\n{\"x\":1}\n{\"retries\":2}\n";
        let calls = Call::read_all(text.to_owned()).unwrap();
        assert_eq!(calls.len(), 2);
        assert_eq!((calls[0].route, &*calls[0].task_id().unwrap()), (3, "id-1"));
        assert_eq!((calls[0].args(), calls[0].kwargs(), calls[0].options()), ("[1,\"ä\"]", "{}", None));
        assert_eq!((calls[1].route, &*calls[1].task_id().unwrap()), (0, "a\nb"));
        assert_eq!(calls[1].kwargs(), "{\"x\":1}");
        assert_eq!(calls[1].options(), Some("{\"retries\":2}"));
        assert!(Call::read_all(String::new()).unwrap().is_empty());
    }

    #[test]
    fn a_text_of_another_form_is_refused() {
        for text in ["1", "1\n", "1\nid\n[]\n\n", "x\nid\n[]\n\n\n", "1\nid\n[]\n\n\n2"] {
            let error = Call::read_all(text.to_owned()).unwrap_err();
            assert_eq!(error.code(), "ERR_CELERIAC_INVALID_ARGUMENT", "{text}");
        }
        let calls = Call::read_all("1\n\"id\n[]\n\n\n".to_owned()).unwrap();
        assert!(calls[0].task_id().is_err());
    }
}
