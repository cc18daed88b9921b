//! Batched publishing: what gathers while one write is in flight goes out with the next.
