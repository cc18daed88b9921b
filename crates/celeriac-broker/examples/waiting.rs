//! What waiting on Redis costs, and what it loses: `npm run bench:waiting`. benchmarks/README.md says how it is measured.
//!
//! Without arguments, or with `--rounds N`: measures, prints a table, writes benchmarks/results/waiting.json. It starts itself
//! as `claim URL QUEUES WHO` for the processes that are killed.

// A measurement that fails ends here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use celeriac_broker::{ConsumeOptions, Consumer, Outcome, Queue, Settlement, Transport, TransportOptions};
use celeriac_protocol::{Message, Properties, envelope};
use celeriac_testkit::redis_server::RedisServer;
use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};
use tokio::sync::mpsc;

const STEPS: [u8; 4] = [0, 3, 6, 9];
const SEPARATOR: &str = "\x06\x16";
/// How many messages a worker asks for at once.
const CREDIT: usize = 32;
const SETTLE: Duration = Duration::from_secs(1);
/// As long as a BLMOVE, so that each is renewed once meanwhile.
const IDLE: Duration = Duration::from_secs(5);
/// As long as a BLMOVE too.
const SLOW: (u64, usize) = (50, 250);
const FAST: (u64, usize) = (2000, 4000);
const BURST: usize = 20_000;
const KILLS: usize = 50;
const PATIENCE: Duration = Duration::from_secs(60);

/// Who waits.
#[derive(Clone, Copy, PartialEq)]
enum Who {
    /// As kombu does: BRPOP on one connection, then the record of it on another.
    Brpop,
    /// Ours, with at most so many connections that wait; `None` is the default.
    Ours(Option<usize>),
}

impl Who {
    fn name(self) -> String {
        match self {
            Self::Brpop => "BRPOP, then a record".to_owned(),
            Self::Ours(None) => "celeriac".to_owned(),
            Self::Ours(Some(most)) => format!("celeriac, waiting_connections={most}"),
        }
    }

    fn parse(text: &str) -> Self {
        match text {
            "brpop" => Self::Brpop,
            "ours" => Self::Ours(None),
            number => Self::Ours(Some(number.parse().unwrap())),
        }
    }

    fn argument(self) -> String {
        match self {
            Self::Brpop => "brpop".to_owned(),
            Self::Ours(None) => "ours".to_owned(),
            Self::Ours(Some(most)) => most.to_string(),
        }
    }
}

fn queues(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("queue{number}")).collect()
}

fn lists(count: usize) -> Vec<(String, u8)> {
    let name = |queue: &String, step| {
        if step == 0 { queue.clone() } else { format!("{queue}{SEPARATOR}{step}") }
    };
    STEPS
        .iter()
        .flat_map(|&step| queues(count).iter().map(|queue| (name(queue, step), step)).collect::<Vec<_>>())
        .collect()
}

/// A message of about the size of a task's, with its number as the body.
fn message(number: usize, queue: &str, priority: u8) -> String {
    let message = Message {
        body: format!("{number}").into_bytes().into(),
        content_type: "application/json".to_owned(),
        content_encoding: "utf-8".to_owned(),
        headers:
            json!({"task": "tasks.add", "lang": "py", "id": uuid::Uuid::new_v4().to_string(), "filler": "x".repeat(400)})
                .to_string(),
        properties: Properties { priority: Some(priority), ..Properties::default() },
    };
    envelope::encode(&message, "", queue)
}

fn number_of(raw: &[u8]) -> usize {
    String::from_utf8(envelope::decode(raw).unwrap().body.to_vec()).unwrap().parse().unwrap()
}

fn open(url: &str, who: Who) -> Arc<dyn Transport> {
    let url = match who {
        Who::Ours(Some(most)) => format!("{url}?waiting_connections={most}"),
        _ => url.to_owned(),
    };
    celeriac_broker::open(&url, TransportOptions::default()).unwrap()
}

async fn consume(transport: &Arc<dyn Transport>, count: usize) -> Arc<dyn Consumer> {
    let queue = |name: String| Queue { name, durable: true, ..Queue::default() };
    let options = ConsumeOptions {
        queues: queues(count).into_iter().map(queue).collect(),
        prefetch: 0,
        node: "bench@localhost".to_owned(),
        lease: PATIENCE,
    };
    transport.consume(options).await.unwrap()
}

async fn blocking(url: &str) -> MultiplexedConnection {
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    redis::Client::open(url).unwrap().get_multiplexed_async_connection_with_config(&config).await.unwrap()
}

/// One message as kombu takes it. Gives its tag and its bytes.
async fn brpop(
    popping: &mut MultiplexedConnection,
    recording: &mut MultiplexedConnection,
    lists: &mut [(String, u8)],
) -> Option<(String, Vec<u8>)> {
    let mut pop = redis::cmd("BRPOP");
    for (list, _) in lists.iter() {
        pop.arg(list);
    }
    let popped: Option<(String, Vec<u8>)> = pop.arg(1).query_async(popping).await.unwrap();
    let (list, raw) = popped?;
    let queue = list.split(SEPARATOR).next().unwrap();
    let tag = uuid::Uuid::new_v4().to_string();
    let record = [b"[", &raw[..], format!(", \"\", \"{queue}\"]").as_bytes()].concat();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let mut both = redis::pipe();
    both.atomic();
    both.cmd("ZADD").arg("unacked_index").arg(now).arg(&tag).ignore();
    both.cmd("HSET").arg("unacked").arg(&tag).arg(record).ignore();
    both.exec_async(recording).await.unwrap();
    Some((tag, raw))
}

/// Starts a worker that reports the numbers of what it took, and when.
async fn start_worker(
    url: &str,
    who: Who,
    count: usize,
    took: mpsc::UnboundedSender<(usize, Instant)>,
) -> tokio::task::JoinHandle<()> {
    if who == Who::Brpop {
        let (mut popping, mut recording) = (blocking(url).await, blocking(url).await);
        let mut lists = lists(count);
        return tokio::spawn(async move {
            loop {
                if let Some((_, raw)) = brpop(&mut popping, &mut recording, &mut lists).await {
                    let now = Instant::now();
                    let _ = took.send((number_of(&raw), now));
                }
            }
        });
    }
    let transport = open(url, who);
    let consumer = consume(&transport, count).await;
    tokio::spawn(async move {
        let _transport = transport;
        loop {
            let batch = consumer.receive(CREDIT).await.unwrap();
            let now = Instant::now();
            for delivery in batch {
                let _ = took.send((number_of(&delivery.raw), now));
            }
        }
    })
}

/// What the server has done so far.
#[derive(Clone, Default)]
struct Done {
    commands: f64,
    scripts: f64,
    cpu: f64,
    clients: f64,
}

async fn done(connection: &mut MultiplexedConnection) -> Done {
    let info: String = redis::cmd("INFO").arg("everything").query_async(connection).await.unwrap();
    let mut done = Done::default();
    for line in info.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        if let Some(command) = key.strip_prefix("cmdstat_") {
            let calls: f64 = value.split(',').next().unwrap().trim_start_matches("calls=").parse().unwrap();
            // What the measurement itself does.
            if !matches!(command, "lpush" | "info") {
                done.commands += calls;
            }
            if command == "evalsha" {
                done.scripts += calls;
            }
        } else if key == "used_cpu_sys" || key == "used_cpu_user" {
            done.cpu += value.parse::<f64>().unwrap();
        } else if key == "connected_clients" {
            done.clients = value.parse().unwrap();
        }
    }
    done
}

/// Sends at a rate; gives the moment of each.
async fn send(
    connection: &mut MultiplexedConnection,
    count: usize,
    (rate, messages): (u64, usize),
    first: usize,
) -> HashMap<usize, Instant> {
    let lists = lists(count);
    let mut sent = HashMap::new();
    let begin = Instant::now();
    for number in 0..messages {
        let due = begin + Duration::from_micros(1_000_000 / rate * number as u64);
        tokio::time::sleep_until(due.into()).await;
        // Not in turns, which would be a rhythm.
        let (list, step) = &lists[(number * 7 + number / lists.len()) % lists.len()];
        let raw = message(first + number, list.split(SEPARATOR).next().unwrap(), *step);
        sent.insert(first + number, Instant::now());
        let _: () = redis::cmd("LPUSH").arg(list).arg(raw).query_async(connection).await.unwrap();
    }
    sent
}

/// Waits for so many; gives when each came.
async fn collect(
    took: &mut mpsc::UnboundedReceiver<(usize, Instant)>,
    messages: usize,
) -> HashMap<usize, Instant> {
    let mut came = HashMap::new();
    while came.len() < messages {
        let next = tokio::time::timeout(PATIENCE, took.recv()).await.expect("a message is missing");
        let (number, when) = next.unwrap();
        assert!(came.insert(number, when).is_none(), "message {number} came twice");
    }
    came
}

/// Quantile in microseconds.
fn quantile(sent: &HashMap<usize, Instant>, came: &HashMap<usize, Instant>, part: f64) -> f64 {
    let mut times: Vec<f64> =
        sent.iter().map(|(number, at)| came[number].duration_since(*at).as_secs_f64() * 1e6).collect();
    times.sort_by(f64::total_cmp);
    times[((times.len() - 1) as f64 * part).round() as usize]
}

type Figures = BTreeMap<&'static str, f64>;

async fn measure(who: Who, count: usize, workers: usize) -> Figures {
    let server = RedisServer::start().await;
    let (sender, mut took) = mpsc::unbounded_channel();
    let mut tasks = Vec::new();
    let mut connection = server.connection().await;
    let before = done(&mut connection).await;
    for _ in 0..workers {
        tasks.push(start_worker(&server.url(), who, count, sender.clone()).await);
    }
    tokio::time::sleep(SETTLE).await;
    let mut figures = Figures::new();

    let idle = done(&mut connection).await;
    tokio::time::sleep(IDLE).await;
    let after = done(&mut connection).await;
    let seconds = IDLE.as_secs_f64();
    let per_second = |then: &Done, now: &Done, seconds: f64| {
        ((now.commands - then.commands) / seconds, (now.scripts - then.scripts) / seconds)
    };
    let (idle_commands, idle_scripts) = per_second(&idle, &after, seconds);
    figures.insert("connections", (after.clients - before.clients) / workers as f64);
    figures.insert("idle commands", idle_commands / workers as f64);
    figures.insert("idle ms", (after.cpu - idle.cpu) / seconds * 1000.0);

    let mut first = 0;
    for (name, load) in [("slow", SLOW), ("fast", FAST)] {
        let then = done(&mut connection).await;
        let begin = Instant::now();
        let sent = send(&mut connection, count, load, first).await;
        let came = collect(&mut took, load.1).await;
        let seconds = begin.elapsed().as_secs_f64();
        let now = done(&mut connection).await;
        first += load.1;
        let each = load.1 as f64;
        let keys = match name {
            "slow" => ["slow p50", "slow p99", "slow scripts", "slow commands"],
            _ => ["fast p50", "fast p99", "fast scripts", "fast commands"],
        };
        figures.insert(keys[0], quantile(&sent, &came, 0.5));
        figures.insert(keys[1], quantile(&sent, &came, 0.99));
        figures.insert(keys[2], (now.scripts - then.scripts - idle_scripts * seconds) / each);
        figures.insert(keys[3], (now.commands - then.commands - idle_commands * seconds) / each);
        if name == "fast" {
            figures.insert("fast redis µs", (now.cpu - then.cpu) * 1e6 / each);
        }
    }

    let lists = lists(count);
    let mut burst: Vec<(String, Vec<String>)> =
        lists.iter().map(|(list, _)| (list.clone(), Vec::new())).collect();
    for number in 0..BURST {
        let place = number % burst.len();
        let (list, step) = &lists[place];
        burst[place].1.push(message(first + number, list.split(SEPARATOR).next().unwrap(), *step));
    }
    let begin = Instant::now();
    for part in 0.. {
        let mut pushes = redis::pipe();
        for (list, messages) in &burst {
            let chunk: Vec<_> = messages.chunks(50).nth(part).unwrap_or_default().to_vec();
            if !chunk.is_empty() {
                pushes.cmd("LPUSH").arg(list).arg(chunk).ignore();
            }
        }
        if pushes.is_empty() {
            break;
        }
        pushes.exec_async(&mut connection).await.unwrap();
    }
    collect(&mut took, BURST).await;
    figures.insert("burst s", begin.elapsed().as_secs_f64());
    for task in tasks {
        task.abort();
    }
    figures
}

/// Takes, says what it took, then acknowledges, until it is killed.
async fn claim(url: &str, count: usize, who: Who) {
    let say = |numbers: &[usize]| {
        let mut out = std::io::stdout().lock();
        for number in numbers {
            writeln!(out, "{number}").unwrap();
        }
        out.flush().unwrap();
    };
    say(&[usize::MAX]);
    if who == Who::Brpop {
        let (mut popping, mut recording) = (blocking(url).await, blocking(url).await);
        let mut lists = lists(count);
        loop {
            if let Some((tag, raw)) = brpop(&mut popping, &mut recording, &mut lists).await {
                say(&[number_of(&raw)]);
                let mut both = redis::pipe();
                both.cmd("ZREM").arg("unacked_index").arg(&tag).ignore();
                both.cmd("HDEL").arg("unacked").arg(&tag).ignore();
                both.exec_async(&mut recording).await.unwrap();
            }
        }
    }
    let transport = open(url, who);
    let consumer = consume(&transport, count).await;
    loop {
        let batch = consumer.receive(4).await.unwrap();
        say(&batch.iter().map(|delivery| number_of(&delivery.raw)).collect::<Vec<_>>());
        let settlement = |tag| Settlement { tag, publish: Vec::new(), store: None, outcome: Outcome::Ack };
        let settlements: Vec<_> = batch.iter().map(|delivery| settlement(delivery.tag)).collect();
        for settled in consumer.settle(&settlements).await {
            settled.unwrap();
        }
    }
}

struct Claimer {
    process: Child,
    reader: std::thread::JoinHandle<()>,
}

fn start_claimer(url: &str, count: usize, who: Who, said: &Arc<Mutex<Vec<usize>>>) -> Claimer {
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["claim", url, &count.to_string(), &who.argument()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    let said = Arc::clone(said);
    let reader = std::thread::spawn(move || {
        for line in lines {
            said.lock().unwrap().push(line.unwrap().parse().unwrap());
        }
    });
    Claimer { process, reader }
}

/// How many messages are neither taken nor in Redis after so many kills, of how many; how many were taken twice; and how many
/// lay moved for somebody who was dead.
async fn kill(who: Who, count: usize) -> (usize, usize, usize, usize) {
    let server = RedisServer::start().await;
    let said = Arc::new(Mutex::new(Vec::new()));
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let mut pushing = server.connection().await;
    let producer = tokio::spawn(async move {
        let mut sent = 0;
        while stopped.try_recv().is_err() {
            sent += send(&mut pushing, count, (1000, 50), sent).await.len();
        }
        sent
    });
    let mut claimers: Vec<_> = (0..3).map(|_| start_claimer(&server.url(), count, who, &said)).collect();
    for turn in 0..KILLS {
        tokio::time::sleep(Duration::from_millis(60 + turn as u64 * 37 % 50)).await;
        let mut gone = claimers.remove(0);
        gone.process.kill().unwrap();
        gone.process.wait().unwrap();
        gone.reader.join().unwrap();
        claimers.push(start_claimer(&server.url(), count, who, &said));
    }
    stop.send(()).unwrap();
    let sent = producer.await.unwrap();
    for mut one in claimers {
        one.process.kill().unwrap();
        one.process.wait().unwrap();
        one.reader.join().unwrap();
    }
    let said = said.lock().unwrap().clone();
    let mut known: HashSet<usize> = said.iter().copied().collect();
    let twice = said.len() - known.len();
    let mut connection = server.connection().await;
    let mut left = 0;
    let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query_async(&mut connection).await.unwrap();
    for key in keys {
        let kind: String = redis::cmd("TYPE").arg(&key).query_async(&mut connection).await.unwrap();
        let private = key.starts_with(b"celeriac.claim:");
        if kind == "list"
            && !key.starts_with(b"celeriac.bell:")
            && !key.windows(14).any(|part| part == b":celeriac.bell")
        {
            let raws: Vec<Vec<u8>> =
                redis::cmd("LRANGE").arg(&key).arg(0).arg(-1).query_async(&mut connection).await.unwrap();
            left += if private { raws.len() } else { 0 };
            known.extend(raws.iter().map(|raw| number_of(raw)));
        }
    }
    let records: Vec<Vec<u8>> =
        redis::cmd("HVALS").arg("unacked").query_async(&mut connection).await.unwrap();
    for record in records {
        let end = record.windows(6).rposition(|part| part == b", \"\", ").unwrap();
        known.insert(number_of(&record[1..end]));
    }
    (sent - known.len(), sent, twice, left)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn machine() -> Value {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let models: Vec<_> = info.lines().filter_map(|line| line.strip_prefix("model name")).collect();
    json!({
        "processors": models.len(),
        "model": models.first().map(|model| model.trim_start_matches([' ', '\t', ':'])),
        "load": read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" "),
    })
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, url, count, who] = &arguments[..]
        && first == "claim"
    {
        return claim(url, count.parse().unwrap(), Who::parse(who)).await;
    }
    let rounds = match arguments.iter().position(|argument| argument == "--rounds") {
        Some(place) => arguments[place + 1].parse().unwrap(),
        None => 3,
    };
    let before = machine();
    let mut cells = Vec::new();
    for count in [1, 10] {
        for workers in [1, 5, 20] {
            cells.push((Who::Brpop, count, workers));
            cells.push((Who::Ours(None), count, workers));
            if count == 10 {
                cells.push((Who::Ours(Some(64)), count, workers));
            }
        }
    }
    let mut found: Vec<Vec<Figures>> = vec![Vec::new(); cells.len()];
    for round in 1..=rounds {
        // Every cell once a round, so that what else the machine does meets all of them.
        for (place, &(who, count, workers)) in cells.iter().enumerate() {
            let figures = measure(who, count, workers).await;
            eprintln!(
                "round {round} of {rounds}: {count} x 4, {workers} workers, {}: {figures:.0?}",
                who.name()
            );
            found[place].push(figures);
        }
    }
    let mut rows = Vec::new();
    println!(
        "| lists | idle workers | | connections each | p50 / p99 µs at {}/s | scripts, commands per message | p50 / p99 µs at {}/s | \
         scripts, commands | Redis µs per message | burst of {BURST}, s | idle: commands/s each, Redis ms/s |",
        SLOW.0, FAST.0
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for ((who, count, workers), rounds) in cells.into_iter().zip(found) {
        let at = |key: &str| median(rounds.iter().map(|figures| figures[key]).collect());
        println!(
            "| {count} × 4 | {workers} | {} | {:.1} | {:.0} / {:.0} | {:.2}, {:.1} | {:.0} / {:.0} | {:.2}, {:.1} | {:.0} | {:.2} | {:.1}, {:.1} |",
            who.name(),
            at("connections"),
            at("slow p50"),
            at("slow p99"),
            at("slow scripts"),
            at("slow commands"),
            at("fast p50"),
            at("fast p99"),
            at("fast scripts"),
            at("fast commands"),
            at("fast redis µs"),
            at("burst s"),
            at("idle commands"),
            at("idle ms"),
        );
        let medians: BTreeMap<_, _> = rounds[0].keys().map(|key| (*key, at(key))).collect();
        rows.push(json!({ "queues": count, "workers": workers, "who": who.name(), "medians": medians, "rounds": rounds }));
    }
    println!(
        "\n| {KILLS} kills with -9 | lists | lost | of | taken twice | moved for a dead one |\n|---|---|---|---|---|---|"
    );
    let mut kills = Vec::new();
    for (who, count) in
        [(Who::Brpop, 10), (Who::Ours(None), 1), (Who::Ours(None), 10), (Who::Ours(Some(64)), 10)]
    {
        let (lost, sent, twice, left) = kill(who, count).await;
        println!("| {} | {count} × 4 | {lost} | {sent} | {twice} | {left} |", who.name());
        kills.push(json!({ "who": who.name(), "queues": count, "kills": KILLS, "lost": lost, "sent": sent, "twice": twice, "left": left }));
    }
    let after = machine();
    println!("\nLoad of the machine: {} before, {} after.", before["load"], after["load"]);
    let results = json!({ "machine": { "before": before, "after": after }, "rounds": rounds, "rows": rows, "kills": kills });
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../benchmarks/results/waiting.json");
    std::fs::write(path, format!("{}\n", serde_json::to_string_pretty(&results).unwrap())).unwrap();
}
