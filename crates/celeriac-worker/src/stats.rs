//! Numbers about a running worker.

use serde_json::json;

use crate::state::{Shared, Stage};

/// One JSON object: what is held, by stage, and what has happened so far. `scheduled`, `ready` and `running` add up to `held`: what
/// JavaScript has and has not begun is ready.
pub(crate) fn render(shared: &Shared) -> String {
    let mut state = shared.state();
    state.see_begun();
    let at_stage = |wanted| state.held.values().filter(|held| held.stage == wanted).count();
    json!({
        "held": state.held.len(),
        "scheduled": at_stage(Stage::Scheduled),
        "ready": at_stage(Stage::Ready) + at_stage(Stage::Given),
        "running": at_stage(Stage::Running),
        "received": state.counts.received,
        "settled": state.counts.settled,
        "lost": state.counts.lost,
        "dead": state.counts.dead,
        "revoked": state.revoked.len(),
        "total": state.counts.by_task,
    })
    .to_string()
}
