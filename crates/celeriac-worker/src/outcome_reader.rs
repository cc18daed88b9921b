//! Reads what JavaScript says that became of deliveries.

use std::sync::Arc;

use celeriac_broker::route::TaskCall;
use celeriac_broker::{DeliveryTag, Outcome};
use celeriac_error::{Error, Result};
use celeriac_protocol::json;

use crate::logger;
use crate::outcome::{self, Document};
use crate::settle_queue::{SettleQueue, Settling};
use crate::state::{Shared, Stage};

/// Reads while what came before is being settled: a slot is free as soon as its outcome is read. Runs until the worker is closed.
pub(crate) async fn run(shared: Arc<Shared>) {
    let queue = &shared.settle_queue;
    // Also where reading panics.
    let _end = End(queue);
    loop {
        let texts = queue.take_texts();
        if texts.is_empty() {
            if shared.is_closed() {
                return;
            }
            queue.said().await;
            continue;
        }
        let mut batch = Vec::new();
        for text in texts {
            read(&shared, &text, &mut batch);
        }
        queue.push_read(batch);
        shared.deliverable.notify_one();
        shared.capacity.notify_one();
    }
}

/// Nobody waits for what is not read, whatever ended reading.
struct End<'queue>(&'queue SettleQueue);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Reads what JavaScript gave to `settle`. An outcome that cannot be read is a failure of its own task, and of no other.
fn read(shared: &Shared, text: &str, batch: &mut Vec<Settling>) {
    // Line by line: no JSON text that JavaScript writes has a line feed of its own.
    for item in text.lines().filter(|line| !line.is_empty()) {
        match read_one(shared, item) {
            Ok(Some(settling)) => batch.push(settling),
            Ok(None) => {}
            Err(error) => batch.extend(unreadable(shared, item, &error)),
        }
    }
}

/// The failure of a task whose outcome cannot be read: a result that nests too deeply, for one.
fn unreadable(shared: &Shared, text: &str, error: &Error) -> Option<Settling> {
    log::error!(target: logger::WORKER, "An outcome cannot be read: {error}");
    let digits = text.trim_start_matches('[').split(',').next()?;
    let tag = DeliveryTag(digits.parse().ok()?);
    let held = {
        let mut state = shared.state();
        let held = state.remove(tag)?;
        if held.stage == Stage::Scheduled {
            state.schedule.retain(|each| each != tag);
        }
        held
    };
    if held.request().is_none() {
        // It cannot be told what it was: somebody else reads it anew.
        return Some(Settling::new(tag, Outcome::Requeue { redelivered: true }));
    }
    let document = Document::exception("FAILURE", "EncodeError", &error.to_string());
    let store = held
        .request()
        .filter(|request| outcome::is_stored(request, held.settings, "FAILURE"))
        .map(|request| outcome::store_request(&shared.options, request, &held.queue, document));
    Some(Settling {
        task_id: held.task_id(),
        store,
        acknowledged: held.acknowledged,
        ..Settling::new(tag, Outcome::Ack)
    })
}

fn wrong(what: &str) -> Error {
    Error::Decode { reason: format!("an outcome without a {what}") }
}

fn read_one(shared: &Shared, text: &str) -> Result<Option<Settling>> {
    let fields = json::array_items(text.as_bytes())?;
    let [tag, outcome, state, result, traceback, children, publish] = fields.as_slice() else {
        return Err(wrong("complete set of fields"));
    };
    let tag = DeliveryTag(tag.parse().map_err(|_| wrong("tag"))?);
    let held = {
        let mut state = shared.state();
        if state.held.get(&tag).is_some_and(|held| held.request().is_none()) {
            // It stays held until it is known what becomes of it.
            return Err(wrong("task"));
        }
        state.remove(tag)
    };
    let Some(held) = held else {
        // Handed back meanwhile, because JavaScript seemed dead.
        log::warn!(target: logger::REQUEST, "An outcome came for delivery {}, which is no longer held.", tag.0);
        return Ok(None);
    };
    let Some(request) = held.request() else { return Err(wrong("task")) };
    let disposition = match *outcome {
        "1" => Outcome::Dead { reason: "rejected", detail: ended_with(result) },
        "2" => Outcome::Requeue { redelivered: true },
        "3" => Outcome::Requeue { redelivered: false },
        "4" => Outcome::Dead { reason: "poison", detail: lost_too_often(shared) },
        _ => Outcome::Ack,
    };
    let mut settling = Settling {
        task_id: request.id.clone(),
        acknowledged: held.acknowledged,
        ..Settling::new(tag, disposition)
    };
    if let Some(state) = string(state)
        && outcome::is_stored(request, held.settings, &state)
    {
        let document = Document {
            state: &state,
            result: (*result).to_owned(),
            traceback: string(traceback),
            children: (*children).to_owned(),
        };
        settling.store = Some(outcome::store_request(&shared.options, request, &held.queue, document));
    }
    if *publish != "null"
        && let Err(error) = read_publications(shared, publish, &mut settling)
    {
        settling.refuse_publications(&error);
    }
    Ok(Some(settling))
}

/// The most characters of an exception's message that the dead list repeats; the result has all of them.
const DETAIL: usize = 1000;

/// What a task whose message nobody wants again ended with, as its result says it: `Reject: …`, or what was thrown.
fn ended_with(result: &str) -> String {
    let exception = || -> Option<String> {
        let members = json::object_members(result.as_bytes()).ok()?;
        let member = |name: &str| members.iter().find(|(key, _)| key == name).map(|(_, value)| *value);
        let arguments = json::array_items(member("exc_message")?.as_bytes()).ok()?;
        let message: Vec<String> =
            arguments.iter().map(|each| string(each).unwrap_or_else(|| (*each).to_owned())).collect();
        Some(format!("{}: {}", string(member("exc_type")?)?, message.join(", ")))
    };
    let text = exception().unwrap_or_else(|| "an exception that cannot be read".to_owned());
    format!("the task ended with {}", text.chars().take(DETAIL).collect::<String>())
}

fn lost_too_often(shared: &Shared) -> String {
    let most = shared.options.max_deliveries.unwrap_or_default();
    format!("each time that it ran its worker was lost or gave it up; maxDeliveries is {most}")
}

fn read_publications(shared: &Shared, text: &str, settling: &mut Settling) -> Result<()> {
    for item in json::array_items(text.as_bytes())? {
        let fields = json::array_items(item.as_bytes())?;
        let [route, task_id, args, kwargs, options] = fields.as_slice() else {
            return Err(wrong("complete publication"));
        };
        let route = route.parse().map_err(|_| wrong("route"))?;
        let task_id = string(task_id).ok_or_else(|| wrong("task id"))?;
        let options = (*options != "null").then_some(*options);
        let call = TaskCall { route, task_id: &task_id, args, kwargs, options };
        let (route, publication) = shared.producer.message(&call)?;
        settling.publish.push(publication);
        settling.queues.push(route.queue.clone());
    }
    Ok(())
}

/// A JSON string, decoded; `None` for null and everything else.
fn string(text: &str) -> Option<String> {
    serde_json::from_str::<String>(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dead_list_says_what_a_task_ended_with() {
        let said = |result| ended_with(result);
        assert_eq!(
            said(
                r#"{"exc_type":"Reject","exc_message":["reject requeue=false: no \"way\""],"exc_module":"c"}"#
            ),
            "the task ended with Reject: reject requeue=false: no \"way\""
        );
        assert_eq!(
            said(r#"{"exc_type":"KeyError","exc_message":["k",NaN],"exc_module":"builtins"}"#),
            "the task ended with KeyError: k, NaN"
        );
        for odd in [
            "null",
            "[]",
            "{}",
            r#"{"exc_type":1,"exc_message":[]}"#,
            r#"{"exc_type":"E","exc_message":"m"}"#,
        ] {
            assert_eq!(said(odd), "the task ended with an exception that cannot be read");
        }
        let long = format!(r#"{{"exc_type":"E","exc_message":["{}"]}}"#, "é".repeat(5000));
        assert!(ended_with(&long).chars().count() < 1100);
    }
}
