//! Tells whoever reads the log of a dead list that nobody looks after. It has no bound, since nothing in it may be lost: what
//! it holds is an operator's to replay or to drop.

use std::sync::Arc;
use std::time::Duration;

use crate::consume;
use crate::logger;
use crate::state::Shared;

/// How often the list is counted.
const INTERVAL: Duration = Duration::from_secs(60);

/// From how many letters on a list that grows is spoken of again.
const MANY: u64 = 1000;

/// Runs until the worker stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut watch = Watch::default();
    while !shared.is_stopping() {
        // A broker that is away is the receiver's to report.
        if let Ok(count) = shared.transport.dead_count().await
            && watch.is_worth_a_line(count)
        {
            log::warn!(
                target: logger::WORKER,
                "The dead list holds {count} messages that no worker could handle. `celeriac dead list` shows them, \
                 `celeriac dead replay` sends them again, and `celeriac dead drop` removes them.",
            );
        }
        consume::stop_or(&shared, INTERVAL).await;
    }
}

/// What was said of the list.
#[derive(Default)]
struct Watch {
    began: bool,
    /// How many letters the last line spoke of; fewer when there were fewer since.
    said: u64,
}

impl Watch {
    /// At the start of a worker any letter is: its own line may have been lost with a worker that was killed. After that each
    /// has had its line, and what is worth another one is that they become many, and twice as many again.
    fn is_worth_a_line(&mut self, count: u64) -> bool {
        let least = if self.began { MANY.max(self.said.saturating_mul(2)) } else { 1 };
        self.began = true;
        let is_worth_it = count >= least;
        self.said = if is_worth_it { count } else { self.said.min(count) };
        is_worth_it
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_list_is_spoken_of_at_the_start_and_when_it_has_doubled() {
        let mut watch = Watch::default();
        let counts = [3, 999, 1000, 1999, 2000, 3999, 4000, 10, 999, 1000];
        let said: Vec<u64> = counts.into_iter().filter(|&count| watch.is_worth_a_line(count)).collect();
        assert_eq!(said, [3, 1000, 2000, 4000, 1000]);
        let mut empty = Watch::default();
        assert!([0, 1, 999].into_iter().all(|count| !empty.is_worth_a_line(count)));
        assert!(empty.is_worth_a_line(1000));
    }
}
