//! The transport contract on a real `RabbitMQ`.

use celeriac_testkit::rabbitmq_server::RabbitMqServer;

celeriac_testkit::transport_contract!(contract, async {
    let server = RabbitMqServer::shared().await;
    (server.url(), server)
});
