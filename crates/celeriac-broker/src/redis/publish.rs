//! A batch of messages in one write: one LPUSH for each list, whatever the number of messages.

use std::collections::HashMap;

use bytes::Bytes;
use celeriac_error::Result;
use celeriac_protocol::envelope;
use redis::{Cmd, Pipeline, Value};

use super::link::{Link, explain};
use super::routing::{Destination, Router};
use super::settings::Settings;
use crate::transport::Publication;

/// The most messages in one LPUSH; more brought nothing when it was measured.
const MESSAGES_PER_PUSH: usize = 512;

/// One message, encoded, with where it goes.
pub(super) struct Prepared {
    pub(super) destinations: Vec<Destination>,
    pub(super) payload: Bytes,
    pub(super) priority: u8,
}

/// Encodes and routes; the tables have been read by [`Router::prepare`].
pub(super) fn prepare(router: &Router, publication: &Publication) -> Result<Prepared> {
    let destinations = router.destinations(publication)?;
    Ok(Prepared { destinations, payload: encode(publication), priority: priority(publication) })
}

fn encode(publication: &Publication) -> Bytes {
    envelope::encode(&publication.message, &publication.exchange, &publication.routing_key).into()
}

fn priority(publication: &Publication) -> u8 {
    publication.message.properties.priority.unwrap_or(0)
}

/// The messages of one list, in order, with their places in the batch.
struct Push {
    list: String,
    places: Vec<usize>,
}

pub(super) async fn publish(
    settings: &Settings,
    router: &Router,
    link: &Link,
    batch: &[Publication],
) -> Vec<Result<()>> {
    if let Err(error) = router.prepare(link, batch.iter()).await {
        return batch.iter().map(|_| Err(error.clone())).collect();
    }
    let mut results: Vec<Result<()>> = Vec::with_capacity(batch.len());
    let mut payloads: Vec<Bytes> = Vec::with_capacity(batch.len());
    let mut pushes: Vec<Push> = Vec::new();
    let mut newest: HashMap<String, usize> = HashMap::new();
    let mut channels: Vec<(String, usize)> = Vec::new();
    let mut expiring: HashMap<String, u64> = HashMap::new();
    // The message before, and its list where that is the only place it goes to: mostly the next goes there too.
    let mut before: Option<(&Publication, usize)> = None;
    for (place, publication) in batch.iter().enumerate() {
        if let Some((other, push)) = before
            && other.goes_the_same_way(publication)
            && priority(other) == priority(publication)
            && pushes[push].places.len() < MESSAGES_PER_PUSH
        {
            pushes[push].places.push(place);
            payloads.push(encode(publication));
            results.push(Ok(()));
            continue;
        }
        before = None;
        let prepared = match prepare(router, publication) {
            Ok(prepared) => prepared,
            Err(error) => {
                results.push(Err(error));
                payloads.push(Bytes::new());
                continue;
            }
        };
        let is_only = prepared.destinations.len() == 1;
        for destination in prepared.destinations {
            match destination {
                Destination::Channel(channel) => channels.push((channel, place)),
                Destination::Queue(queue) => {
                    if let Some(milliseconds) = router.expires(&queue) {
                        expiring
                            .extend(settings.keys.lists(&queue).into_iter().map(|list| (list, milliseconds)));
                    }
                    let list = settings.keys.list(&queue, prepared.priority);
                    let push = match newest.get(&list) {
                        Some(&push) if pushes[push].places.len() < MESSAGES_PER_PUSH => {
                            pushes[push].places.push(place);
                            push
                        }
                        _ => {
                            newest.insert(list.clone(), pushes.len());
                            pushes.push(Push { list, places: vec![place] });
                            pushes.len() - 1
                        }
                    };
                    if is_only {
                        before = Some((publication, push));
                    }
                }
            }
        }
        results.push(Ok(()));
        payloads.push(prepared.payload);
    }

    let mut pipeline = Pipeline::with_capacity(pushes.len() + channels.len() + expiring.len());
    pipeline.ignore_errors();
    for push in &pushes {
        // Half a megabyte, often: it is not to be copied each time that it grows.
        let length: usize = push.places.iter().map(|&place| payloads[place].len()).sum();
        let mut command = Cmd::with_capacity(push.places.len() + 2, length + push.list.len() + "LPUSH".len());
        command.arg("LPUSH").arg(&push.list);
        for &place in &push.places {
            command.arg(&payloads[place][..]);
        }
        pipeline.add_command(command);
    }
    for (channel, place) in &channels {
        pipeline.cmd("PUBLISH").arg(channel).arg(&payloads[*place][..]);
    }
    for (list, milliseconds) in &expiring {
        pipeline.cmd("PEXPIRE").arg(list).arg(milliseconds).ignore();
    }
    if pushes.is_empty() && channels.is_empty() {
        return results;
    }
    let replies: Vec<redis::RedisResult<Value>> = match link.commands_once(&pipeline).await {
        Ok(replies) => replies,
        Err(error) => {
            for result in &mut results {
                if result.is_ok() {
                    *result = Err(error.clone());
                }
            }
            return results;
        }
    };
    let places = pushes
        .iter()
        .map(|push| &push.places[..])
        .chain(channels.iter().map(|(_, place)| std::slice::from_ref(place)));
    for (places, reply) in places.zip(replies) {
        if let Err(error) = reply {
            for &place in places {
                results[place] = Err(explain(&settings.url, &error));
            }
        }
    }
    results
}
