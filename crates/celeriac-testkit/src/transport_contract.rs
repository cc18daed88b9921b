//! What every transport must do, run on each by its own short test.
//!
//! ```text
//! transport_contract!(memory, async { ("memory://contract".to_owned(), ()) });
//! ```
//! makes one test per behaviour below, in a module of the given name. The block gives the URL of a broker that is up,
//! and anything that keeps it up until the test has ended. The behaviours use fresh queue names, so a broker may be
//! shared between them.

// A broken expectation is a failed test, and says where.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// The behaviours read like tests, and use nearly all of `support`.
#![allow(clippy::wildcard_imports)]

mod begins;
mod claims;
mod dead;
mod messages;
mod routing;
mod support;

pub use begins::*;
pub use claims::*;
pub use dead::*;
pub use messages::*;
pub use routing::*;
pub use support::Subject;

/// One test per behaviour of the contract: see [`transport_contract`](crate::transport_contract).
#[macro_export]
macro_rules! transport_contract {
    ($name:ident, $server:expr) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            $crate::transport_contract! { @each $server;
                a_published_message_comes_back_unchanged
                messages_come_in_the_order_in_which_they_were_published
                a_batch_takes_what_is_there_up_to_max
                an_empty_receive_waits_until_a_message_comes
                dropping_a_receive_loses_nothing
                lower_priority_numbers_come_first
                queue_length_counts_what_waits_and_purge_removes_it
                many_producers_and_consumers_pass_each_message_exactly_once
                an_acknowledged_message_is_gone
                a_requeued_message_comes_back_first
                a_requeued_message_says_that_it_was_redelivered_when_asked
                a_dead_message_is_listed_with_its_reason_and_its_bytes
                a_dead_message_is_listed_with_its_task_and_its_size
                a_replayed_message_comes_back_to_its_queue_at_its_priority
                a_replayed_message_goes_where_it_is_told_to
                a_dropped_message_is_gone
                what_is_not_in_the_dead_list_says_so
                the_dead_list_is_counted
                replays_at_the_same_time_replay_once
                begins_are_counted_over_leases_that_run_out
                begins_are_counted_over_deliveries_that_were_given_up
                a_count_is_forgotten_when_its_delivery_is_settled
                a_count_stands_when_its_delivery_is_handed_back
                deliveries_of_one_task_share_their_count
                what_was_lost_does_not_begin
                a_replayed_message_has_no_count
                an_unsettled_message_is_hidden_from_others_until_its_consumer_closes
                messages_of_a_consumer_that_died_come_back_after_its_lease
                a_held_message_outlives_its_lease
                settling_publishes_and_acknowledges
                a_settlement_that_cannot_be_routed_leaves_the_message_held
                settling_what_was_lost_publishes_nothing
                still_held_tells_what_is_ours
                stop_ends_receive_with_nothing_and_keeps_what_is_held
                set_queues_replaces_the_queues
                closing_a_consumer_twice_is_fine
                a_direct_exchange_leads_to_the_queues_with_that_key
                a_topic_exchange_leads_to_every_matching_queue
                an_unroutable_message_is_refused_and_its_neighbours_are_taken
                fanout_reaches_every_subscriber
                declaring_twice_changes_nothing
                closing_the_transport_ends_what_waits
                a_closed_transport_says_so
            }
        }
    };
    (@each $server:expr; $($behaviour:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $behaviour() {
                let (url, _running) = $server.await;
                let subject = $crate::transport_contract::Subject::new(url);
                $crate::transport_contract::$behaviour(&subject).await;
            }
        )*
    };
}
