//! Encrypted connections to `RabbitMQ`: verified, refused, with a client's certificate.

// What is not as expected is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod amqp_support;

use amqp_support::{body, celery_queue, consume, open, open_with, publish, take_one, to, within};
use celeriac_testkit::certificates::Certificates;
use celeriac_testkit::rabbitmq_server::{RabbitMqServer, RabbitMqServerOptions, RabbitMqTls};

async fn server(certificates: &Certificates, requires_client_certificate: bool) -> RabbitMqServer {
    let tls = RabbitMqTls {
        ca_certs: certificates.file("ca.pem"),
        certfile: certificates.file("server.pem"),
        keyfile: certificates.file("server-key.pem"),
        requires_client_certificate,
    };
    RabbitMqServer::start_with(RabbitMqServerOptions { tls: Some(tls), ..RabbitMqServerOptions::default() })
        .await
}

async fn works(url: &str) {
    let transport = open(url);
    within(transport.connect()).await.unwrap_or_else(|error| panic!("{url}: {error}"));
    within(transport.declare(&[celery_queue("q")])).await.unwrap();
    publish(&transport, &[to("q", "encrypted")]).await;
    let consumer = consume(&transport, &["q"]).await;
    assert_eq!(body(&take_one(&consumer).await), "encrypted");
    within(transport.purge("q")).await.unwrap();
    let delivery_is_back = within(consumer.close()).await;
    delivery_is_back.unwrap();
    within(transport.purge("q")).await.unwrap();
    transport.close().await;
}

/// By a server that is there: with a certificate it lets the same URL in.
async fn is_refused(url: &str) {
    let error = within(open(url).connect()).await.expect_err(url);
    // It may end the connection before it says why.
    assert!(
        ["ERR_CELERIAC_REFUSED", "ERR_CELERIAC_BROKER_UNAVAILABLE"].contains(&error.code()),
        "{url}: {error}"
    );
    assert!(!error.to_string().contains("refused (os error"), "nobody listens at {url}: {error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_must_show_a_certificate_of_its_name_that_somebody_known_has_signed() {
    let certificates = Certificates::make();
    let server = server(&certificates, false).await;
    let (url, ca) = (server.tls_url(), certificates.path("ca.pem"));
    let elsewhere = url.replace("localhost", "127.0.0.1");
    works(&format!("{url}?ssl_ca_certs={ca}")).await;
    works(&format!("{elsewhere}?ssl_ca_certs={ca}&ssl_check_hostname=false")).await;
    works(&format!("{elsewhere}?ssl_ca_certs={ca}&ssl_server_hostname=localhost")).await;
    works(&format!("{elsewhere}?ssl_cert_reqs=none")).await;
    // It is for another name; nobody known has signed it.
    for url in [format!("{elsewhere}?ssl_ca_certs={ca}"), url.clone()] {
        let error = within(open(&url).connect()).await.expect_err(&url);
        assert_eq!(error.code(), "ERR_CELERIAC_REFUSED", "{error}");
        assert!(error.to_string().contains("TLS"), "{error}");
    }
    // As `broker_use_ssl` says it, on a URL that does not.
    let plain = url.replace("amqps", "amqp");
    let transport = open_with(&plain, serde_json::json!({ "ssl": { "ca_certs": ca } }));
    within(transport.connect()).await.unwrap();
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_wants_to_know_its_clients_is_shown_a_certificate() {
    let certificates = Certificates::make();
    let server = server(&certificates, true).await;
    let trusting = format!("{}?ssl_ca_certs={}", server.tls_url(), certificates.path("ca.pem"));
    is_refused(&trusting).await;
    let (certfile, keyfile) = (certificates.path("client.pem"), certificates.path("client-key.pem"));
    works(&format!("{trusting}&ssl_certfile={certfile}&ssl_keyfile={keyfile}")).await;
}
