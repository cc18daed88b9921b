//! The topology that Celery declares, declared by us, as `rabbitmqctl` lists it.

// What is not as expected is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod amqp_support;

use amqp_support::{open, within};
use celeriac_broker::{DelayQueues, Exchange, ExchangeType, Queue};
use celeriac_testkit::rabbitmq_server::{RabbitMqServer, RabbitMqServerOptions};
use serde_json::{Map, Value};

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn exchange(listed: &Value) -> Exchange {
    Exchange {
        name: text(&listed["name"]),
        kind: match listed["type"].as_str().unwrap() {
            "direct" => ExchangeType::Direct,
            "topic" => ExchangeType::Topic,
            "fanout" => ExchangeType::Fanout,
            other => panic!("an exchange of type {other}"),
        },
        durable: listed["durable"].as_bool().unwrap(),
        auto_delete: listed["auto_delete"].as_bool().unwrap(),
    }
}

/// The queues of a step as Celery would have them.
fn queues(declared: &Value) -> Vec<Queue> {
    let exchanges = declared["exchanges"].as_array().unwrap();
    let bindings = declared["bindings"].as_array().unwrap();
    let listed = declared["queues"].as_array().unwrap().iter();
    // Those of delayed delivery come with the queues that have it.
    let listed = listed.filter(|queue| !text(&queue["name"]).starts_with("celery_delayed_"));
    let queues = listed.map(|listed| {
        let name = text(&listed["name"]);
        let is_own = |binding: &&Value| {
            binding["destination_name"] == listed["name"]
                && !text(&binding["routing_key"]).starts_with("#.")
                && binding["source_name"] != "celery_delayed_delivery"
        };
        let binding = bindings.iter().find(is_own);
        let exchange = binding.map(|binding| {
            exchange(exchanges.iter().find(|exchange| exchange["name"] == binding["source_name"]).unwrap())
        });
        let arguments: Map<String, Value> = listed["arguments"]
            .as_array()
            .unwrap()
            .iter()
            .map(|argument| (text(&argument[0]), argument[2].clone()))
            .collect();
        Queue {
            name,
            exchange: exchange.unwrap_or_default(),
            routing_key: binding.map(|binding| text(&binding["routing_key"])).unwrap_or_default(),
            durable: listed["durable"].as_bool().unwrap(),
            // Nothing is said of a quorum queue, which cannot be.
            exclusive: listed["exclusive"] == true,
            auto_delete: listed["auto_delete"].as_bool().unwrap(),
            arguments: if arguments.is_empty() {
                String::new()
            } else {
                Value::Object(arguments).to_string()
            },
            delays: (listed["type"] == "quorum").then_some(DelayQueues::Quorum),
        }
    });
    queues.collect()
}

/// What is listed, without what the broker has by itself, sorted.
async fn listed(server: &RabbitMqServer, vhost: &str, what: &str, fields: &[&str]) -> Vec<Value> {
    let command = [&["--formatter", "json", "-p", vhost, what], fields].concat();
    let listed: Value = serde_json::from_str(&server.ctl(&command).await).unwrap();
    let mut rows = listed.as_array().unwrap().clone();
    let own = |row: &Value| {
        let name = |field: &str| row.get(field).and_then(Value::as_str);
        let is_default = |name: &str| name.is_empty() || name.starts_with("amq.");
        !name("name").is_some_and(is_default) && !name("source_name").is_some_and(is_default)
    };
    rows.retain(own);
    sorted(rows)
}

fn sorted(mut rows: Vec<Value>) -> Vec<Value> {
    // Arguments are a table: their order means nothing.
    for row in &mut rows {
        if let Some(arguments) = row.get_mut("arguments").and_then(Value::as_array_mut) {
            arguments.sort_by_key(Value::to_string);
        }
    }
    rows.sort_by_key(ToString::to_string);
    rows
}

/// The same fields of what Celery left.
fn expected(rows: &Value, fields: &[&str]) -> Vec<Value> {
    let rows = rows.as_array().unwrap().iter().map(|row| {
        Value::Object(fields.iter().map(|field| ((*field).to_owned(), row[*field].clone())).collect())
    });
    sorted(rows.collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_declared_is_what_celery_declares() {
    let vectors: Value =
        serde_json::from_str(include_str!("../../celeriac-protocol/tests/golden/topology_amqp.json"))
            .unwrap();
    let steps = vectors["steps"].as_array().unwrap();
    assert!(steps.len() > 10);
    let vhosts = steps.iter().map(|step| text(&step["name"])).collect();
    let server =
        RabbitMqServer::start_with(RabbitMqServerOptions { vhosts, ..RabbitMqServerOptions::default() })
            .await;
    for step in steps {
        let (vhost, declared) = (text(&step["name"]), &step["declared"]);
        let transport = open(&server.url_of(&vhost));
        within(transport.declare(&queues(declared))).await.unwrap();
        // Exchanges that no queue is bound to are declared by whoever listens.
        let mut listeners = Vec::new();
        for listed in declared["exchanges"].as_array().unwrap() {
            let bound = declared["bindings"].as_array().unwrap();
            if bound.iter().all(|binding| binding["source_name"] != listed["name"]) {
                listeners.push(within(transport.subscribe(&exchange(listed), &[])).await.unwrap());
            }
        }
        let fields = ["name", "type", "durable", "auto_delete", "internal", "arguments"];
        let exchanges = listed(&server, &vhost, "list_exchanges", &fields).await;
        assert_eq!(exchanges, expected(&declared["exchanges"], &fields), "{vhost}");
        let fields = ["name", "durable", "auto_delete", "exclusive", "arguments", "type"];
        let mut queues = listed(&server, &vhost, "list_queues", &fields).await;
        queues.retain(|queue| !text(&queue["name"]).starts_with("celeriac.listener."));
        assert_eq!(queues, expected(&declared["queues"], &fields), "{vhost}");
        let fields = [
            "source_name",
            "source_kind",
            "destination_name",
            "destination_kind",
            "routing_key",
            "arguments",
        ];
        let mut bindings = listed(&server, &vhost, "list_bindings", &fields).await;
        bindings.retain(|binding| !text(&binding["destination_name"]).starts_with("celeriac.listener."));
        assert_eq!(bindings, expected(&declared["bindings"], &fields), "{vhost}");
        transport.close().await;
    }
}
