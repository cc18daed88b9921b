//! The transport contract on a real Redis.

use celeriac_testkit::redis_server::RedisServer;

celeriac_testkit::transport_contract!(contract, async {
    let server = RedisServer::start().await;
    (server.url(), server)
});
