//! `herald topics` and `herald stats`: topics and statistics of a running broker.

use serde::Deserialize;
use transport_client::{Connection, Error, TopicName};

use super::exit::{DONE, Status};
use super::remote::{Remote, explain};
use crate::output::{print, table};

/// List the topics of a running broker
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  herald topics\n  herald topics --json | jq '.[].topic'")]
pub(super) struct TopicsArgs {
    /// Print the broker's JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Show the figures of a running broker: its subscriptions, and what waits in them
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  herald stats\n  herald stats tweets --json | jq '.topics[].subscriptions'")]
pub(super) struct StatsArgs {
    /// One topic instead of all
    topic: Option<String>,
    /// Print the broker's JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

pub(super) async fn topics(args: TopicsArgs) -> anyhow::Result<Status> {
    let answer = ask(&args.remote, "topics").await?;
    if args.json {
        print(&format!("{answer}\n"))?;
    } else {
        let topics: Vec<Topic> = serde_json::from_str(&answer)?;
        print(&topics_table(&topics))?;
    }
    Ok(DONE)
}

pub(super) async fn stats(args: StatsArgs) -> anyhow::Result<Status> {
    let command = match &args.topic {
        Some(topic) => format!("stats {}", TopicName::new(topic).map_err(explain)?),
        None => "stats".to_owned(),
    };
    let answer = ask(&args.remote, &command).await?;
    if args.json {
        print(&format!("{answer}\n"))?;
    } else {
        print(&stats_table(&serde_json::from_str(&answer)?))?;
    }
    Ok(DONE)
}

async fn ask(remote: &Remote, command: &str) -> anyhow::Result<String> {
    let mut connection = Connection::open(&remote.config("herald")?).await.map_err(explain)?;
    let answer = connection.request_line(command).await.map_err(|error| match error {
        Error::Refused { reason } => anyhow::anyhow!("{reason}"),
        error => explain(error),
    })?;
    let _the_answer_is_here = connection.quit().await;
    Ok(answer)
}

// Unknown fields are fine here: a newer broker may say more.

#[derive(Debug, Deserialize)]
struct Topic {
    topic: String,
    subscriptions: u64,
    waiting: u64,
    in_flight: u64,
    published: u64,
}

#[derive(Debug, Deserialize)]
struct Stats {
    version: String,
    uptime_ms: u64,
    connections: u64,
    topics: Vec<TopicStats>,
}

#[derive(Debug, Deserialize)]
struct TopicStats {
    topic: String,
    published: u64,
    subscriptions: Vec<Subscription>,
}

#[derive(Debug, Deserialize)]
struct Subscription {
    name: Option<String>,
    connections: u64,
    waiting: u64,
    in_flight: u64,
    delayed: u64,
    oldest_ms: u64,
    delivered: u64,
    acknowledged: u64,
    redelivered: u64,
    expired: u64,
    dropped: u64,
    dead_lettered: u64,
}

fn topics_table(topics: &[Topic]) -> String {
    if topics.is_empty() {
        return "no topics yet: one is made by its first event or subscription\n".to_owned();
    }
    let mut rows = vec![row(&["TOPIC", "SUBSCRIPTIONS", "WAITING", "IN FLIGHT", "PUBLISHED"])];
    for topic in topics {
        let numbers = [topic.subscriptions, topic.waiting, topic.in_flight, topic.published];
        rows.push([topic.topic.clone()].into_iter().chain(numbers.map(|n| n.to_string())).collect());
    }
    table(&rows, 1)
}

fn stats_table(stats: &Stats) -> String {
    let Stats { version, uptime_ms, connections, topics } = stats;
    let mut out = format!(
        "herald {version}, up {}, {connections} connection{}\n",
        duration(*uptime_ms),
        if *connections == 1 { "" } else { "s" }
    );
    if topics.is_empty() {
        return out;
    }
    let mut rows = vec![row(&[
        "TOPIC",
        "SUBSCRIPTION",
        "CONNECTIONS",
        "WAITING",
        "IN FLIGHT",
        "DELAYED",
        "OLDEST",
        "DELIVERED",
        "ACKED",
        "REDELIVERED",
        "EXPIRED",
        "DROPPED",
        "DEAD",
    ])];
    for topic in topics {
        if topic.subscriptions.is_empty() {
            rows.push(row(&[&topic.topic, "(none)"]));
        }
        for one in &topic.subscriptions {
            let name = one.name.clone().unwrap_or_else(|| "(of a connection)".to_owned());
            let oldest = if one.oldest_ms == 0 { "-".to_owned() } else { duration(one.oldest_ms) };
            let before = [one.connections, one.waiting, one.in_flight, one.delayed];
            let after = [one.delivered, one.acknowledged, one.redelivered, one.expired, one.dropped, one.dead_lettered];
            let mut cells = vec![topic.topic.clone(), name];
            cells.extend(before.map(|n| n.to_string()));
            cells.push(oldest);
            cells.extend(after.map(|n| n.to_string()));
            rows.push(cells);
        }
    }
    out.push('\n');
    out.push_str(&table(&rows, 2));
    out.push('\n');
    for topic in topics {
        out.push_str(&format!("{}: {} published since the start\n", topic.topic, topic.published));
    }
    out
}

fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

/// A time as its two largest units.
fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, 0) => format!("{ms}ms"),
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m{s}s"),
        (0, h, m, _) => format!("{h}h{m}m"),
        (d, h, ..) => format!("{d}d{h}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        let all: Vec<String> = [0, 999, 1000, 61_000, 3_660_000, 90_000_000].map(duration).into();
        assert_eq!(all, ["0ms", "999ms", "1s", "1m1s", "1h1m", "1d1h"]);
    }

    #[test]
    fn the_answers_of_the_protocol_become_tables() {
        let topics = r#"[{"topic":"tweets","subscriptions":2,"waiting":7,"in_flight":1,"published":12,"new":[]}]"#;
        let text = topics_table(&serde_json::from_str::<Vec<Topic>>(topics).unwrap());
        assert_eq!(text.lines().nth(1), Some("tweets              2        7          1         12"));
        let stats = r#"{"version":"1","uptime_ms":5000,"connections":1,"topics":[{"topic":"t","published":3,"subscriptions":[
            {"name":null,"connections":1,"waiting":1,"in_flight":1,"delayed":0,"oldest_ms":70000,"delivered":2,"acknowledged":1,
             "redelivered":0,"expired":0,"dropped":0,"dead_lettered":0}]},{"topic":"u","published":0,"subscriptions":[]}]}"#;
        let text = stats_table(&serde_json::from_str(stats).unwrap());
        assert!(text.starts_with("herald 1, up 5s, 1 connection\n"), "{text}");
        assert!(
            text.contains("(of a connection)") && text.contains("1m10s") && text.contains("u      (none)"),
            "{text}"
        );
    }
}
