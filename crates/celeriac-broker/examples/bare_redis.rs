//! What Redis gives to a Rust program that does the least a worker of Celery has to: a contender of `npm run bench`.
//!
//! `bare_redis URL COUNT BATCH MESSAGE stored|ignored [together]`: puts COUNT messages like the one in the file MESSAGE into a
//! list, then times how long it takes to claim, store and acknowledge them, BATCH at a time over one connection: taken off the
//! list and recorded as unacknowledged; the result stored and announced; the record removed. These are kombu's steps without its
//! transactions. Each step is one pipeline with commands of its own for every message; with `together` a command is for the whole
//! batch where Redis has such. Prints `{"seconds": …}`.

// A measurement that fails ends here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "bare/message.rs"]
mod message;

use std::time::Instant;

use message::{Seen, Template, number_of};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline};

const LIST: &str = "bare";
const UNACKED: &str = "bare_unacked";
const INDEX: &str = "bare_unacked_index";
const LOAD: usize = 500;
const A_DAY: u32 = 86_400;

struct Options {
    batch: usize,
    stores: bool,
    together: bool,
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, count, batch, path, results, rest @ ..] = arguments.as_slice() else {
        panic!("bare_redis URL COUNT BATCH MESSAGE stored|ignored [together]");
    };
    let count: usize = count.parse().unwrap();
    let options = Options {
        batch: batch.parse().unwrap(),
        stores: results == "stored",
        together: rest.first().is_some_and(|word| word == "together"),
    };
    let template = Template::read(path);
    let client = redis::Client::open(url.as_str()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    load(&mut connection, &template, count).await;
    let began = Instant::now();
    let seen = drain(&mut connection, &template, count, &options).await;
    let seconds = began.elapsed().as_secs_f64();
    seen.check();
    check_empty(&mut connection).await;
    println!("{}", serde_json::json!({ "seconds": seconds }));
}

async fn load(connection: &mut MultiplexedConnection, template: &Template, count: usize) {
    for begin in (0..count).step_by(LOAD) {
        let mut pipeline = redis::pipe();
        for number in begin..count.min(begin + LOAD) {
            pipeline.lpush(LIST, template.message(number)).ignore();
        }
        pipeline.query_async::<()>(connection).await.unwrap();
    }
}

async fn drain(
    connection: &mut MultiplexedConnection,
    template: &Template,
    count: usize,
    options: &Options,
) -> Seen {
    let [id, tag] = template.places();
    let mut seen = Seen::new(count);
    loop {
        let messages: Vec<Vec<u8>> =
            Cmd::new().arg("RPOP").arg(LIST).arg(options.batch).query_async(connection).await.unwrap();
        if messages.is_empty() {
            return seen;
        }
        let tags: Vec<&[u8]> = messages.iter().map(|message| &message[tag.clone()]).collect();
        run(&record(&tags, &messages, options.together), connection).await;
        for message in &messages {
            seen.note(number_of(&message[id.clone()]).unwrap());
        }
        if options.stores {
            let ids: Vec<&str> =
                messages.iter().map(|message| std::str::from_utf8(&message[id.clone()]).unwrap()).collect();
            run(&store(&ids), connection).await;
        }
        run(&acknowledge(&tags, options.together), connection).await;
    }
}

async fn run(pipeline: &Pipeline, connection: &mut MultiplexedConnection) {
    pipeline.query_async::<()>(connection).await.unwrap();
}

fn record(tags: &[&[u8]], messages: &[Vec<u8>], together: bool) -> Pipeline {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    let mut pipeline = redis::pipe();
    if together {
        pipeline.zadd_multiple(INDEX, &tags.iter().map(|tag| (now, *tag)).collect::<Vec<_>>()).ignore();
        pipeline.hset_multiple(UNACKED, &tags.iter().zip(messages).collect::<Vec<_>>()).ignore();
        return pipeline;
    }
    for (tag, message) in tags.iter().zip(messages) {
        pipeline.zadd(INDEX, *tag, now).ignore();
        pipeline.hset(UNACKED, *tag, message).ignore();
    }
    pipeline
}

fn store(ids: &[&str]) -> Pipeline {
    let mut pipeline = redis::pipe();
    for id in ids {
        let key = format!("celery-task-meta-{id}");
        let document = format!(
            r#"{{"status": "SUCCESS", "result": 3, "traceback": null, "children": [], "date_done": "2026-11-21T09:00:00.000000+00:00", "task_id": "{id}"}}"#
        );
        pipeline.cmd("SET").arg(&key).arg(&document).arg("EX").arg(A_DAY).ignore();
        pipeline.publish(&key, &document).ignore();
    }
    pipeline
}

fn acknowledge(tags: &[&[u8]], together: bool) -> Pipeline {
    let mut pipeline = redis::pipe();
    if together {
        pipeline.zrem(INDEX, tags).ignore();
        pipeline.hdel(UNACKED, tags).ignore();
        return pipeline;
    }
    for tag in tags {
        pipeline.zrem(INDEX, *tag).ignore();
        pipeline.hdel(UNACKED, *tag).ignore();
    }
    pipeline
}

async fn check_empty(connection: &mut MultiplexedConnection) {
    let left: usize =
        redis::cmd("EXISTS").arg(&[LIST, UNACKED, INDEX]).query_async(connection).await.unwrap();
    assert!(left == 0, "something is left");
}
