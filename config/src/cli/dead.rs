//! `herald dead`: dead letters of a running broker.

use serde::Deserialize;
use transport_client::{Connection, Error, SubscriptionName, TopicName};

use super::exit::{DONE, Status, UsageError};
use super::remote::{Remote, explain};
use crate::output::{print, table};

/// Dead letters: events that were delivered too often, given up, or that waited for too long
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  herald dead list tweets\n  herald dead redrive tweets\n  herald dead purge tweets"
)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show the dead letters of a topic, in the order in which they would be delivered
    #[command(
        after_help = "Examples:\n  herald dead list tweets\n  herald dead list tweets -n 1000 --json | jq .dead.reason"
    )]
    List(ListArgs),
    /// Move dead letters back to the subscriptions that they came from
    #[command(after_help = "Examples:\n  herald dead redrive tweets\n  herald dead redrive tweets -n 10")]
    Redrive(RedriveArgs),
    /// Drop the dead letters of a topic
    #[command(after_help = "Examples:\n  herald dead purge tweets")]
    Purge(PurgeArgs),
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    #[command(flatten)]
    place: Place,
    /// How many letters at the most, up to 1000
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 100)]
    count: u64,
    /// Print the letters as JSON lines instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, clap::Args)]
struct RedriveArgs {
    /// The topic that the letters came from
    topic: String,
    /// How many letters at the most; all, if it is not given
    #[arg(short = 'n', long, value_name = "COUNT")]
    count: Option<u64>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, clap::Args)]
struct PurgeArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    remote: Remote,
}

/// Where the letters of a topic are.
#[derive(Debug, clap::Args)]
struct Place {
    /// The topic that the letters came from
    topic: String,
    /// Its dead-letter topic, if the broker's configuration names another than <TOPIC>.dead
    #[arg(long, value_name = "TOPIC")]
    dead_letter: Option<String>,
    /// The subscription of the dead-letter topic, if it has several
    #[arg(long, value_name = "NAME")]
    subscription: Option<String>,
}

impl Place {
    fn names(&self) -> anyhow::Result<(TopicName, Option<SubscriptionName>)> {
        let topic = TopicName::new(&self.topic).map_err(explain)?;
        let dead = self.dead_letter.clone().unwrap_or_else(|| format!("{topic}.dead"));
        let name = self.subscription.as_deref().map(SubscriptionName::new).transpose().map_err(explain)?;
        Ok((TopicName::new(&dead).map_err(explain)?, name))
    }
}

pub(super) async fn run(args: Args) -> anyhow::Result<Status> {
    match args.command {
        Command::List(args) => list(args).await,
        Command::Redrive(args) => redrive(args).await,
        Command::Purge(args) => purge(args).await,
    }
}

async fn list(args: ListArgs) -> anyhow::Result<Status> {
    let (topic, name) = args.place.names()?;
    if !(1..=1000).contains(&args.count) {
        return Err(UsageError(format!("-n {}: expected a number from 1 to 1000", args.count)).into());
    }
    let mut connection = open(&args.remote).await?;
    let letters = none_if_absent(connection.peek(&topic, name.as_ref(), Some(args.count)).await)?;
    let _the_answer_is_here = connection.quit().await;
    if args.json {
        print(&letters.iter().map(|letter| format!("{letter}\n")).collect::<String>())?;
    } else {
        let letters: Vec<Letter> =
            letters.iter().map(|letter| serde_json::from_str(letter)).collect::<Result<_, _>>()?;
        print(&letters_table(&letters))?;
    }
    Ok(DONE)
}

async fn redrive(args: RedriveArgs) -> anyhow::Result<Status> {
    let topic = TopicName::new(&args.topic).map_err(explain)?;
    if args.count == Some(0) {
        return Err(UsageError("-n 0: expected a number from 1".to_owned()).into());
    }
    let mut connection = open(&args.remote).await?;
    let count = connection.redrive(&topic, args.count).await.map_err(refused)?;
    let _the_answer_is_here = connection.quit().await;
    print(&format!("redriven {count}\n"))?;
    Ok(DONE)
}

async fn purge(args: PurgeArgs) -> anyhow::Result<Status> {
    let (topic, name) = args.place.names()?;
    let mut connection = open(&args.remote).await?;
    let count = none_if_absent(connection.purge(&topic, name.as_ref()).await)?;
    let _the_answer_is_here = connection.quit().await;
    print(&format!("purged {count}\n"))?;
    Ok(DONE)
}

async fn open(remote: &Remote) -> anyhow::Result<Connection> {
    Connection::open(&remote.config("herald")?).await.map_err(explain)
}

/// A topic without dead letters has no dead-letter topic yet.
fn none_if_absent<T: Default>(answer: Result<T, Error>) -> anyhow::Result<T> {
    match answer {
        Err(Error::Refused { reason }) if reason.starts_with("no such topic: ") => Ok(T::default()),
        answer => answer.map_err(refused),
    }
}

fn refused(error: Error) -> anyhow::Error {
    match error {
        Error::Refused { reason } => anyhow::anyhow!("{reason}"),
        error => explain(error),
    }
}

// Unknown fields are fine here: a newer broker may say more.

#[derive(Debug, Deserialize)]
struct Letter {
    id: String,
    priority: i32,
    dead: Option<Dead>,
}

#[derive(Debug, Deserialize)]
struct Dead {
    subscription: Option<String>,
    reason: String,
    deliveries: u64,
    note: Option<String>,
}

fn letters_table(letters: &[Letter]) -> String {
    let header = ["ID", "SUBSCRIPTION", "REASON", "NOTE", "PRIORITY", "DELIVERIES"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for letter in letters {
        // What was published there by hand has no story.
        let dead = letter.dead.as_ref();
        let of =
            |text: Option<&str>| text.unwrap_or("-").chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        rows.push(vec![
            of(Some(&letter.id)),
            of(dead.and_then(|dead| dead.subscription.as_deref())),
            of(dead.map(|dead| dead.reason.as_str())),
            of(dead.and_then(|dead| dead.note.as_deref())),
            letter.priority.to_string(),
            dead.map_or_else(|| "-".to_owned(), |dead| dead.deliveries.to_string()),
        ]);
    }
    table(&rows, 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_shown_with_their_story() {
        let letters = [
            r#"{"topic":"t.dead","priority":3,"msg":1,"id":"a","dead":{"topic":"t","subscription":"s","reason":"terminated","deliveries":2,"at":5,"note":"no user"}}"#,
            r#"{"topic":"t.dead","priority":-1,"msg":1,"id":"by-hand"}"#,
        ];
        let letters: Vec<Letter> = letters.iter().map(|letter| serde_json::from_str(letter).unwrap()).collect();
        assert_eq!(
            letters_table(&letters),
            "ID       SUBSCRIPTION  REASON      NOTE     PRIORITY  DELIVERIES\n\
             a        s             terminated  no user         3           2\n\
             by-hand  -             -           -              -1           -\n"
        );
    }
}
