//! Leases are renewed for as long as something is held, however long that is.

use std::sync::Arc;
use std::time::Duration;

use celeriac_error::Result;

use super::core::{Core, lock};
use super::scripts::RENEW;
use crate::fault_point;

/// The most tags of one script.
const TAGS_PER_SCRIPT: usize = 1000;

/// How soon a renewal that failed is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// Renews every third of a lease.
pub(super) async fn keep(core: Arc<Core>) {
    let third = core.lease / 3;
    loop {
        tokio::time::sleep(third).await;
        while renew(&core).await.is_err() {
            tokio::time::sleep(RETRY.min(third)).await;
        }
    }
}

async fn renew(core: &Core) -> Result<()> {
    let ids: Vec<Arc<str>> = {
        let held = lock(&core.held);
        held.values().filter(|held| !held.buried).map(|held| Arc::clone(&held.id)).collect()
    };
    for chunk in ids.chunks(TAGS_PER_SCRIPT) {
        fault_point!("redis.renew.before");
        let mut call = RENEW.call(&[core.settings.keys.unacked_index.clone(), core.settings.keys.leases()]);
        call.arg(core.lease_ms());
        for id in chunk {
            call.arg(&**id);
        }
        core.link.script::<()>(&RENEW, &call).await?;
        fault_point!("redis.renew.after");
    }
    Ok(())
}
