//! Whether the broker still has the channel that everything held came by.
//!
//! It hands out again what a closed channel held, and closes what was silent for longer than the heartbeat allows: a process that
//! was stopped meanwhile does not know yet. Then the channel itself is asked.

use std::sync::{Arc, Weak};
use std::time::Duration;

use celeriac_error::Result;
use lapin::options::BasicQosOptions;

use super::core::Core;
use super::link::lock;
use crate::moment::Moment;

/// How long the broker believes in a silent connection that has no heartbeat.
pub(super) const WITHOUT_HEARTBEAT: Duration = Duration::from_secs(60);

/// How long at most until the clocks are looked at: a timer may not count the time that the machine slept.
const TICK: Duration = Duration::from_secs(1);

impl Core {
    /// Whether what is held is certainly still held.
    pub(super) fn stands(&self) -> bool {
        let mut state = lock(&self.state);
        let Some(session) = &state.session else { return true };
        let stands = session.known.age() < session.patience;
        if !stands {
            state.was_doubtful = true;
        }
        stands
    }

    /// Asks the broker whether it has the channel still.
    pub(super) async fn ask(self: &Arc<Self>) -> Result<()> {
        let _opening = self.opening.lock().await;
        let Some((number, live, channel)) = lock(&self.state)
            .session
            .as_ref()
            .map(|session| (session.number, Arc::clone(&session.live), Arc::clone(&session.channel)))
        else {
            return Ok(());
        };
        let sent = Moment::now();
        let window = self.base();
        if let Err(error) = live.answer(channel.basic_qos(window, BasicQosOptions { global: false })).await {
            self.end_session(number, "the channel was lost");
            return Err(error);
        }
        let mut state = lock(&self.state);
        let was_doubtful = std::mem::take(&mut state.was_doubtful);
        if let Some(session) = state.session.as_mut().filter(|session| session.number == number) {
            session.known = sent;
        }
        if was_doubtful {
            state.looked = true;
            drop(state);
            self.told.notify_waiters();
        }
        Ok(())
    }

    /// [`ask`](Self::ask), where it is not certain.
    pub(super) async fn make_certain(self: &Arc<Self>) {
        if self.stands() {
            return;
        }
        // Where it fails it is known too: nothing is held any longer, whyever the channel was closed.
        if let Err(error) = self.ask().await {
            log::debug!("{error}");
        }
    }
}

/// Sees to it that it is known whether the broker has the channel still.
pub(super) async fn keep(core: Weak<Core>) {
    loop {
        tokio::time::sleep(TICK).await;
        let Some(core) = core.upgrade() else { return };
        let is_due = lock(&core.state)
            .session
            .as_ref()
            .is_some_and(|session| session.known.age() > session.patience / 4);
        if is_due && let Err(error) = core.ask().await {
            log::debug!("{error}");
        }
    }
}
