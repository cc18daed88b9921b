//! The options of a call as JavaScript sends them.

use std::str::FromStr;

use celeriac_error::{Error, Result};

use super::TaskOptions;
use crate::json::{array_items, excerpt, object_members, string_value};

impl TaskOptions {
    /// Reads options from the JSON object that JavaScript sends: the keys are the field names above without
    /// `_json`, all optional; `time_limit` is `[hard, soft]`. Unknown keys are an error.
    ///
    /// Null is the same as leaving a key out, except for `ignore_result`.
    ///
    /// # Errors
    /// [`Error::Encode`] names the key that is wrong.
    pub fn from_json(text: &str) -> Result<Self> {
        let mut options = Self::default();
        if text == "{}" {
            return Ok(options);
        }
        let members = object_members(text.as_bytes())
            .map_err(|error| Error::Encode { reason: format!("the options: {error}") })?;
        for (name, json) in members {
            let value = Value { name: &name, json };
            match name.as_ref() {
                "eta" => options.eta = value.string()?,
                "delay" => options.delay = value.integer()?,
                "expires" => options.expires = value.string()?,
                "expiration_ms" => options.expiration_ms = value.integer()?,
                "retries" => options.retries = value.integer()?.unwrap_or_default(),
                "shadow" => options.shadow = value.string()?,
                "group" => options.group = value.string()?,
                "group_index" => options.group_index = value.integer()?,
                "root_id" => options.root_id = value.string()?,
                "parent_id" => options.parent_id = value.string()?,
                "origin" => options.origin = value.string()?,
                "reply_to" => options.reply_to = value.string()?,
                "time_limit" => options.time_limit = value.time_limit()?,
                "ignore_result" => options.ignore_result = Some(value.boolean()?),
                "priority" => options.priority = value.integer()?,
                "delivery_mode" => options.delivery_mode = value.integer()?,
                "replaced_task_nesting" => {
                    options.replaced_task_nesting = value.integer()?.unwrap_or_default();
                }
                "argsrepr" => options.argsrepr = value.string()?,
                "kwargsrepr" => options.kwargsrepr = value.string()?,
                "callbacks" => options.callbacks_json = value.json(b'[')?,
                "errbacks" => options.errbacks_json = value.json(b'[')?,
                "chain" => options.chain_json = value.json(b'[')?,
                "chord" => options.chord_json = value.json(b'{')?,
                "stamped_headers" => options.stamped_headers_json = value.json(b'[')?,
                "stamps" => options.stamps_json = value.json(b'{')?,
                "headers" => options.headers_json = value.json(b'{')?,
                "properties" => options.properties_json = value.json(b'{')?,
                _ => return Err(Error::Encode { reason: format!("there is no option `{name}`") }),
            }
        }
        Ok(options)
    }
}

struct Value<'a> {
    name: &'a str,
    json: &'a str,
}

impl Value<'_> {
    fn is_null(&self) -> bool {
        self.json == "null"
    }

    fn wrong(&self, expected: &str) -> Error {
        let (name, found) = (self.name, excerpt(self.json));
        Error::Encode { reason: format!("the option `{name}` must be {expected}, not {found}") }
    }

    fn string(&self) -> Result<Option<String>> {
        if self.is_null() {
            return Ok(None);
        }
        let value = string_value(self.json).map_err(|_| self.wrong("a string"))?;
        Ok(Some(value.into_owned()))
    }

    fn integer<T: FromStr>(&self) -> Result<Option<T>> {
        if self.is_null() {
            return Ok(None);
        }
        self.json.parse().map(Some).map_err(|_| self.wrong("a whole number in its range"))
    }

    fn boolean(&self) -> Result<Option<bool>> {
        match self.json {
            "null" => Ok(None),
            "true" => Ok(Some(true)),
            "false" => Ok(Some(false)),
            _ => Err(self.wrong("true, false or null")),
        }
    }

    fn json(&self, first: u8) -> Result<Option<String>> {
        if self.is_null() {
            return Ok(None);
        }
        if self.json.as_bytes().first() != Some(&first) {
            return Err(self.wrong(if first == b'[' { "an array" } else { "an object" }));
        }
        Ok(Some(self.json.to_owned()))
    }

    fn time_limit(&self) -> Result<Option<(Option<f64>, Option<f64>)>> {
        if self.is_null() {
            return Ok(None);
        }
        let wrong = || self.wrong("[hard, soft] in seconds");
        let seconds = |json: &str| match json {
            "null" => Ok(None),
            _ => json.parse::<f64>().ok().filter(|seconds| seconds.is_finite()).map(Some).ok_or_else(wrong),
        };
        match array_items(self.json.as_bytes()).as_deref() {
            Ok([hard, soft]) => Ok(Some((seconds(hard)?, seconds(soft)?))),
            _ => Err(wrong()),
        }
    }
}
