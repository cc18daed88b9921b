//! Encrypted connections to Redis: verified, refused, with a certificate of the client.

// What is not as expected is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use celeriac_broker::{Outcome, Transport, TransportOptions};
use celeriac_testkit::certificates::Certificates;
use celeriac_testkit::redis_server::{RedisServer, RedisServerOptions};
use std::sync::Arc;

mod redis_support;
use redis_support::*;

#[tokio::test]
async fn an_encrypted_connection_checks_the_certificate_unless_told_otherwise() {
    let (_server, port, certificates) = start_with_tls("no").await;
    let ca_certs = certificates.path("ca.pem");
    let with = |query: &str| format!("rediss://localhost:{port}/0{query}");
    for url in [with("?ssl_cert_reqs=none"), with(&format!("?ssl_ca_certs={ca_certs}"))] {
        carry_a_message(&open(&url)).await;
    }
    assert_eq!(code_of(&open(&with(""))).await, "ERR_CELERIAC_BROKER_UNAVAILABLE");
    assert_eq!(code_of(&open(&with("?ssl_cert_reqs=required"))).await, "ERR_CELERIAC_BROKER_UNAVAILABLE");
}

#[tokio::test]
async fn a_server_that_asks_for_a_certificate_takes_ours() {
    let (_server, port, certificates) = start_with_tls("yes").await;
    let ca_certs = certificates.path("ca.pem");
    let url = format!("redis://localhost:{port}/0");
    let open = |ssl: serde_json::Value| {
        let options = serde_json::json!({ "ssl": ssl }).as_object().cloned().unwrap_or_default();
        celeriac_broker::open(&url, TransportOptions { options, ..TransportOptions::default() }).unwrap()
    };
    let (certfile, keyfile) = (certificates.path("client.pem"), certificates.path("client-key.pem"));
    carry_a_message(&open(serde_json::json!({
        "ssl_ca_certs": ca_certs, "ssl_certfile": certfile, "ssl_keyfile": keyfile,
    })))
    .await;
    let without = open(serde_json::json!({ "ssl_ca_certs": ca_certs }));
    assert_eq!(code_of(&without).await, "ERR_CELERIAC_BROKER_UNAVAILABLE");
}

/// A server that only speaks TLS on the port that is given, and its certificates.
async fn start_with_tls(auth_clients: &str) -> (RedisServer, u16, Certificates) {
    let certificates = Certificates::make();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let tls = [
        ("--tls-port", port.to_string()),
        ("--tls-cert-file", certificates.path("server.pem")),
        ("--tls-key-file", certificates.path("server-key.pem")),
        ("--tls-ca-cert-file", certificates.path("ca.pem")),
        ("--tls-auth-clients", auth_clients.to_owned()),
    ];
    let arguments = tls.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect();
    let options = RedisServerOptions { arguments, ..RedisServerOptions::default() };
    (RedisServer::start_with(options).await, port, certificates)
}

async fn carry_a_message(transport: &Arc<dyn Transport>) {
    let consumer = consume(transport, &["q"]).await;
    publish(transport, &[to("q", "hidden")]).await;
    let delivery = take_one(&consumer).await;
    assert_eq!(body(&delivery), "hidden");
    settle(&consumer, &delivery, Outcome::Ack).await;
    within(transport.close()).await;
}
