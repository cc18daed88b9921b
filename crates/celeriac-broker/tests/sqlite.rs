//! The transport contract on an SQLite file, and what is special about it.

mod support;

use support::Folder;

celeriac_testkit::transport_contract!(contract, async {
    let folder = Folder::new();
    (folder.url("broker.db"), folder)
});
