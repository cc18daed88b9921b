//! Remote control: the commands that reach a worker through Celery's pidbox exchange.
//!
//! Source of the form: `kombu.pidbox`, `celery.worker.control`.

use std::sync::Arc;
use std::time::Instant;

use celeriac_broker::sync::listen;
use celeriac_broker::{Exchange, ExchangeType};
use celeriac_protocol::Message;
use serde_json::Value;

use crate::logger;
use crate::state::{Notice, Shared};

/// The most notices that wait for JavaScript.
const MOST_NOTICES: usize = 10_000;

/// Listens until the worker stops. A broker without fanout has no remote control.
pub(crate) async fn run(shared: Arc<Shared>, ready: tokio::sync::oneshot::Sender<()>) {
    let Some(name) = shared.options.control_exchange.clone() else { return };
    if !shared.transport.features().fanout {
        return;
    }
    let exchange = Exchange {
        name: format!("{name}.pidbox"),
        kind: ExchangeType::Fanout,
        durable: false,
        auto_delete: false,
    };
    let mut subscription = match shared.transport.subscribe(&exchange, &[]).await {
        Ok(subscription) => subscription,
        Err(error) => {
            log::error!(target: logger::CONTROL, "Remote control is off: {error}");
            return;
        }
    };
    let _ = ready.send(());
    loop {
        let stopped = listen(&shared.stopped);
        if shared.is_closed() {
            return;
        }
        tokio::select! {
            message = subscription.next() => match message {
                Some(message) => obey(&shared, &message),
                None => return,
            },
            () = stopped => {}
        }
    }
}

fn obey(shared: &Shared, message: &Message) {
    let Ok(command) = serde_json::from_slice::<Value>(&message.body) else {
        log::error!(target: logger::CONTROL, "A control message that is not JSON was ignored.");
        return;
    };
    let method = command.get("method").and_then(Value::as_str).unwrap_or_default();
    if !is_meant(shared, &command) {
        return;
    }
    let arguments = command.get("arguments").cloned().unwrap_or_default();
    match method {
        "revoke" | "terminate" => {
            let ids = ids(arguments.get("task_id"));
            let terminate = method == "terminate" || arguments.get("terminate").is_some_and(is_true);
            let signal = arguments.get("signal").and_then(Value::as_str).unwrap_or("SIGTERM");
            revoke(shared, ids, terminate, signal);
        }
        "shutdown" => {
            log::warn!(target: logger::CONTROL, "Got shutdown from remote");
            shared.state().notices.push(Notice::Shutdown);
            shared.deliverable.notify_one();
        }
        other => log::debug!(target: logger::CONTROL, "No such control command here: {other}"),
    }
}

/// Remembers ids, and tells JavaScript, which may be running one of them.
pub(crate) fn revoke(shared: &Shared, ids: Vec<String>, terminate: bool, signal: &str) {
    if ids.is_empty() {
        return;
    }
    log::info!(target: logger::CONTROL, "tasks {} flagged as revoked", ids.join(", "));
    let now = Instant::now();
    {
        let mut state = shared.state();
        for id in &ids {
            state.revoked.add(id.clone(), now);
        }
        // What is not to be terminated need not be known to whoever runs it.
        if terminate && state.notices.len() < MOST_NOTICES {
            state.notices.push(Notice::Revoke { ids, terminate, signal: signal.to_owned() });
        }
    }
    shared.deliverable.notify_one();
}

fn is_true(value: &Value) -> bool {
    value.as_bool().unwrap_or_else(|| value.as_i64().is_some_and(|number| number != 0))
}

fn ids(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::String(id)) => vec![id.clone()],
        Some(Value::Array(ids)) => ids.iter().filter_map(|id| id.as_str().map(str::to_owned)).collect(),
        _ => Vec::new(),
    }
}

/// Whether the command names this node: by `destination`, or by `pattern`; one without either is for all
/// (`kombu.pidbox.Node.should_handle_message`).
fn is_meant(shared: &Shared, command: &Value) -> bool {
    let hostname = &shared.options.hostname;
    if let Some(Value::Array(names)) = command.get("destination")
        && !names.is_empty()
    {
        return names.iter().any(|name| name.as_str() == Some(hostname));
    }
    let (Some(pattern), Some(matcher)) = (
        command.get("pattern").and_then(Value::as_str).filter(|pattern| !pattern.is_empty()),
        command.get("matcher").and_then(Value::as_str).filter(|matcher| !matcher.is_empty()),
    ) else {
        return true;
    };
    let is_match = match matcher {
        "glob" => glob::Pattern::new(pattern).ok().map(|pattern| pattern.matches(hostname)),
        _ => None,
    };
    is_match.unwrap_or_else(|| {
        log::warn!(
            target: logger::CONTROL,
            "A control command for nodes that match {pattern:?} was ignored: {matcher:?} cannot be matched here.",
        );
        false
    })
}
