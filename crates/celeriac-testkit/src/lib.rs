//! Test only: starts real servers on free ports, and holds the contracts that every transport and every result
//! store must fulfil.

pub mod redis_server;
pub mod result_store_contract;
pub mod tcp_proxy;
pub mod transport_contract;
