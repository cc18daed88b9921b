//! The transport contract on `memory://`, and what is special about it.

celeriac_testkit::transport_contract!(contract, async { ("memory://contract".to_owned(), ()) });
