//! Which queues and listeners a message reaches, and what closing ends.

use std::sync::Arc;

use celeriac_broker::ExchangeType;

use super::support::*;

/// Every queue that is bound with exactly this key gets a copy.
pub async fn a_direct_exchange_leads_to_the_queues_with_that_key(subject: &Subject) {
    let (transport, other) = (subject.open(), subject.open());
    let direct = exchange(&fresh("direct"), ExchangeType::Direct);
    let queues = [
        bound(&fresh("a"), &direct, "red"),
        bound(&fresh("b"), &direct, "blue"),
        bound(&fresh("c"), &direct, "red"),
    ];
    transport.declare(&queues).await.expect("queues can be declared");
    // The other connection has declared nothing: bindings belong to the broker.
    publish(&other, &[through(&direct, "red", "for red")]).await;
    let mut lengths = Vec::new();
    for queue in &queues {
        lengths.push(waiting_in(&transport, queue).await);
    }
    assert_eq!(lengths, [1, 0, 1]);
    let consumer = consume(&transport, &[&queues[0]]).await;
    let delivery = take_one(&consumer).await;
    let info = &delivery.message.as_ref().expect("the envelope can be read").properties.delivery_info;
    assert_eq!((info.exchange.as_str(), info.routing_key.as_str()), (direct.name.as_str(), "red"));
    transport.close().await;
    other.close().await;
}

/// `*` is one word, `#` any number; a queue gets one copy however many of its bindings match.
pub async fn a_topic_exchange_leads_to_every_matching_queue(subject: &Subject) {
    let transport = subject.open();
    let topic = exchange(&fresh("topic"), ExchangeType::Topic);
    let (first, second) = (fresh("first"), fresh("second"));
    let queues = [
        bound(&first, &topic, "mail.*"),
        bound(&first, &topic, "mail.#"),
        bound(&second, &topic, "*.urgent.#"),
    ];
    transport.declare(&queues).await.expect("queues can be declared");
    let keys = ["mail.send", "mail.urgent.now", "sms.send.urgent.x"];
    let batch: Vec<_> = keys.iter().map(|key| through(&topic, key, *key)).collect();
    let results = within("publish", transport.publish(&batch)).await;
    assert!(results[0].is_ok() && results[1].is_ok());
    let error = results[2].as_ref().expect_err("no binding matches");
    assert_eq!(error.code(), "ERR_CELERIAC_UNROUTABLE");

    let consumer = consume(&transport, &[&queues[0]]).await;
    assert_eq!(bodies(&take(&consumer, 2).await), ["mail.send", "mail.urgent.now"]);
    nothing_comes(&consumer, QUIET).await;
    let consumer = consume(&transport, &[&queues[2]]).await;
    assert_eq!(bodies(&take(&consumer, 1).await), ["mail.urgent.now"]);
    nothing_comes(&consumer, QUIET).await;
    transport.close().await;
}

/// Results are in the order of the batch; the error names exchange and key.
pub async fn an_unroutable_message_is_refused_and_its_neighbours_are_taken(subject: &Subject) {
    let transport = subject.open();
    let queue = new_queue(&transport).await;
    let nowhere = exchange(&fresh("nowhere"), ExchangeType::Direct);
    let batch = [to(&queue, "before"), through(&nowhere, "lost", "lost"), to(&queue, "after")];
    let results = within("publish", transport.publish(&batch)).await;
    assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    let error = results[1].as_ref().expect_err("there is no such queue");
    assert_eq!(error.code(), "ERR_CELERIAC_UNROUTABLE");
    assert!(error.to_string().contains(&nowhere.name) && error.to_string().contains("lost"), "{error}");
    let consumer = consume(&transport, &[&queue]).await;
    assert_eq!(bodies(&take(&consumer, 2).await), ["before", "after"]);
    assert!(within("publish", transport.publish(&[])).await.is_empty());
    transport.close().await;
}

/// Each listener gets each message once, in order, whichever connection it is on; with no listener it is no error.
pub async fn fanout_reaches_every_subscriber(subject: &Subject) {
    let (transport, other) = (subject.open(), subject.open());
    if !transport.features().fanout {
        let all = exchange("all", ExchangeType::Fanout);
        let error = transport.subscribe(&all, &[]).await.err().expect("not supported");
        assert_eq!(error.code(), "ERR_CELERIAC_NOT_SUPPORTED");
        return;
    }
    let all = exchange(&fresh("all"), ExchangeType::Fanout);
    publish(&transport, &[through(&all, "", "nobody hears it")]).await;
    let mut listeners = Vec::new();
    for connection in [&transport, &transport, &other] {
        let listener = within("subscribe", connection.subscribe(&all, &[])).await;
        listeners.push(listener.expect("an exchange can be listened to"));
    }
    let elsewhere = exchange(&fresh("elsewhere"), ExchangeType::Fanout);
    publish(&transport, &[through(&elsewhere, "", "not for them")]).await;
    publish(&transport, &[through(&all, "", "one"), through(&all, "any", "two")]).await;
    for listener in &mut listeners {
        let mut heard = Vec::new();
        for _ in 0..2 {
            let message = within("a broadcast", listener.next()).await.expect("the transport is open");
            heard.push(String::from_utf8(message.body.to_vec()).expect("text"));
        }
        assert_eq!(heard, ["one", "two"]);
    }
    transport.close().await;
    for mut listener in listeners.drain(..2) {
        assert!(within("the end of a subscription", listener.next()).await.is_none());
    }
    other.close().await;
}

/// Neither what waits nor what is bound.
pub async fn declaring_twice_changes_nothing(subject: &Subject) {
    let transport = subject.open();
    let queue = new_queue(&transport).await;
    publish(&transport, &[to(&queue, "one")]).await;
    transport.declare(std::slice::from_ref(&queue)).await.expect("a queue can be declared again");
    publish(&transport, &[through(&queue.exchange, &queue.routing_key, "two")]).await;
    assert_eq!(waiting_in(&transport, &queue).await, 2);
    let consumer = consume(&transport, &[&queue]).await;
    assert_eq!(bodies(&take(&consumer, 2).await), ["one", "two"]);
    transport.close().await;
}

/// A waiting receive resolves, and what its consumer held goes back at once.
pub async fn closing_the_transport_ends_what_waits(subject: &Subject) {
    let (transport, other) = (subject.open(), subject.open());
    let queue = new_queue(&transport).await;
    publish(&transport, &[to(&queue, "held")]).await;
    let consumer = consume(&transport, &[&queue]).await;
    take_one(&consumer).await;
    let waiting = tokio::spawn({
        let consumer = Arc::clone(&consumer);
        async move { consumer.receive(1).await }
    });
    nothing_comes(&consumer, QUIET).await;
    within("close", transport.close()).await;
    match within("the waiting receive", waiting).await.expect("no panic") {
        Ok(batch) => assert!(batch.is_empty()),
        Err(error) => assert_eq!(error.code(), "ERR_CELERIAC_CLOSED"),
    }
    assert_eq!(waiting_in(&other, &queue).await, 1);
    other.close().await;
}

/// Closing again is fine; everything else is refused with the code that says why.
pub async fn a_closed_transport_says_so(subject: &Subject) {
    let transport = subject.open();
    let queue = new_queue(&transport).await;
    within("close", transport.close()).await;
    within("the second close", transport.close()).await;
    let published = within("publish", transport.publish(&[to(&queue, "late")])).await.remove(0);
    let codes = [
        published.err(),
        within("connect", transport.connect()).await.err(),
        within("declare", transport.declare(std::slice::from_ref(&queue))).await.err(),
        within("queue_length", transport.queue_length(&queue.name)).await.err(),
        within("purge", transport.purge(&queue.name)).await.err(),
    ]
    .map(|error| error.map(|error| error.code()));
    assert_eq!(codes, [Some("ERR_CELERIAC_CLOSED"); 5]);
    // A closed connection takes nothing with it.
    let other = subject.open();
    assert_eq!(waiting_in(&other, &queue).await, 0);
    other.close().await;
}
