//! `herald dead`: the dead letters of a running broker.

use serde::Deserialize;
use transport_client::{Connection, Error, SubscriptionName, TopicName};

use super::exit::{DONE, Status};
use super::number::integer;
use super::remote::{Remote, explain};
use crate::output::{escape_all, message, print, stdout_is_terminal, table};

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
        after_help = "Examples:\n  herald dead list tweets\n  herald dead list tweets --all --json | jq .dead.reason"
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
    /// How many letters to show, up to 1000
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 100, value_parser = integer(1..=MAX_COUNT))]
    count: u64,
    /// Show the letters behind this position, which an incomplete list says at its end
    #[arg(long, value_name = "POSITION", default_value = "start", hide_default_value = true)]
    after: String,
    /// Show all letters, in as many tables as they take
    #[arg(long, conflicts_with = "count")]
    all: bool,
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
    /// How many letters to move; all, if it is not given
    #[arg(short = 'n', long, value_name = "COUNT", value_parser = integer(1..=u64::MAX))]
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

/// The place of a topic's dead letters.
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

/// The most letters that one `peek` returns.
const MAX_COUNT: u64 = 1000;

pub(super) async fn run(args: Args) -> anyhow::Result<Status> {
    match args.command {
        Command::List(args) => list(args).await,
        Command::Redrive(args) => redrive(args).await,
        Command::Purge(args) => purge(args).await,
    }
}

async fn list(args: ListArgs) -> anyhow::Result<Status> {
    let (topic, name) = args.place.names()?;
    let mut connection = open(&args.remote).await?;
    let count = if args.all { MAX_COUNT } else { args.count };
    let (mut after, mut shown) = (args.after, 0);
    let next = loop {
        let page = match connection.peek_after(&topic, name.as_ref(), Some(count), &after).await {
            Err(error) if is_absent(&error) => {
                note_absence(&mut connection, &args.place.topic).await?;
                print_letters(&[], args.json)?;
                break None;
            }
            page => page.map_err(refused)?,
        };
        shown += page.events.len();
        // The last of several pages may be empty.
        if !page.events.is_empty() || shown == 0 && page.next.is_none() {
            print_letters(&page.events, args.json)?;
        }
        match page.next {
            Some(next) if args.all => after = next,
            next => break next,
        }
    };
    // A page that is just full does not know whether it is the last one.
    let more = match &next {
        Some(next) => {
            let page = connection.peek_after(&topic, name.as_ref(), Some(1), next).await.map_err(refused)?;
            !page.events.is_empty()
        }
        None => false,
    };
    if let Some(next) = next.filter(|_| more) {
        let all = waiting(&mut connection, &topic, name.as_ref()).await?;
        message(&format!(
            "herald: {shown} of {all} letters are shown; --after {next} shows the next ones, --all shows all"
        ));
    }
    let _the_answer_is_here = connection.quit().await;
    Ok(DONE)
}

fn print_letters(letters: &[String], json: bool) -> anyhow::Result<()> {
    if json {
        print(&letters.iter().map(|letter| format!("{letter}\n")).collect::<String>())?;
    } else {
        let letters: Vec<Letter> =
            letters.iter().map(|letter| serde_json::from_str(letter)).collect::<Result<_, _>>()?;
        print(&letters_table(&letters, stdout_is_terminal()))?;
    }
    Ok(())
}

async fn redrive(args: RedriveArgs) -> anyhow::Result<Status> {
    let topic = TopicName::new(&args.topic).map_err(explain)?;
    let mut connection = open(&args.remote).await?;
    let count = connection.redrive(&topic, args.count).await.map_err(refused)?;
    // A name that leaves no room for `.dead` has no such topic. Dead letters that are configured to go elsewhere are not counted.
    let dead = TopicName::new(format!("{topic}.dead")).ok();
    let stay = match &dead {
        Some(dead) if args.count.is_none_or(|wanted| count < wanted) => waiting(&mut connection, dead, None).await?,
        _ => 0,
    };
    if count == 0 && stay == 0 {
        note_absence(&mut connection, &args.topic).await?;
    }
    let _the_answer_is_here = connection.quit().await;
    print(&format!("redriven {count}\n"))?;
    if let Some(dead) = dead.filter(|_| stay > 0) {
        message(&format!(
            "herald: {stay} stay in {dead}: the subscriptions that they came from are full, or are not there any more"
        ));
    }
    Ok(DONE)
}

async fn purge(args: PurgeArgs) -> anyhow::Result<Status> {
    let (topic, name) = args.place.names()?;
    let mut connection = open(&args.remote).await?;
    let count = match connection.purge(&topic, name.as_ref()).await {
        Err(error) if is_absent(&error) => {
            note_absence(&mut connection, &args.place.topic).await?;
            0
        }
        count => count.map_err(refused)?,
    };
    let _the_answer_is_here = connection.quit().await;
    print(&format!("purged {count}\n"))?;
    Ok(DONE)
}

async fn open(remote: &Remote) -> anyhow::Result<Connection> {
    Connection::open(&remote.config("herald")?).await.map_err(explain)
}

/// Whether the topic does not exist: a topic without dead letters has no dead-letter topic yet.
fn is_absent(error: &Error) -> bool {
    matches!(error, Error::Refused { reason } if reason.starts_with("no such topic: "))
}

/// Says so if the topic itself does not exist: its name may be mistyped.
async fn note_absence(connection: &mut Connection, topic: &str) -> anyhow::Result<()> {
    match connection.request_line(&format!("stats {topic}")).await {
        Err(error) if is_absent(&error) => message(&format!("herald: there is no topic {topic}")),
        // The topic exists and has no letters; or this token may not see it, which the command itself has reported.
        Ok(_) | Err(Error::Refused { .. }) => {}
        Err(error) => return Err(explain(error)),
    }
    Ok(())
}

/// The number of waiting letters; 0 where the broker refuses `stats`.
async fn waiting(
    connection: &mut Connection,
    topic: &TopicName,
    name: Option<&SubscriptionName>,
) -> anyhow::Result<u64> {
    let answer = match connection.request_line(&format!("stats {topic}")).await {
        Ok(answer) => answer,
        Err(Error::Refused { .. }) => return Ok(0),
        Err(error) => return Err(explain(error)),
    };
    let stats: Stats = serde_json::from_str(&answer)?;
    let subscriptions = stats.topics.into_iter().flat_map(|topic| topic.subscriptions);
    let of_it = subscriptions.filter(|one| name.is_none_or(|name| one.name.as_deref() == Some(name.as_str())));
    Ok(of_it.map(|one| one.waiting).sum())
}

fn refused(error: Error) -> anyhow::Error {
    match error {
        Error::Refused { reason } => anyhow::anyhow!("{reason}"),
        error => explain(error),
    }
}

// Unknown fields are fine here: a newer broker may say more.

#[derive(Debug, Deserialize)]
struct Stats {
    topics: Vec<TopicStats>,
}

#[derive(Debug, Deserialize)]
struct TopicStats {
    subscriptions: Vec<SubscriptionStats>,
}

#[derive(Debug, Deserialize)]
struct SubscriptionStats {
    name: Option<String>,
    waiting: u64,
}

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

fn letters_table(letters: &[Letter], terminal: bool) -> String {
    let header = ["ID", "SUBSCRIPTION", "REASON", "NOTE", "PRIORITY", "DELIVERIES"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for letter in letters {
        // An event that was published to the dead-letter topic directly has no origin and no reason.
        let dead = letter.dead.as_ref();
        let of = |text: Option<&str>| cell(text.unwrap_or("-"), terminal);
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

/// The most characters of a text that a row shows. The formatter panics beyond 65,535; `--json` shows everything.
const SHOWN: usize = 200;

/// `text` as a cell of one row: control characters are escaped on a terminal, line breaks and tabs become spaces elsewhere. A
/// long text is cut.
fn cell(text: &str, terminal: bool) -> String {
    let cut = text.char_indices().nth(SHOWN).map(|(at, _)| format!("{}…", &text[..at]));
    let text = cut.as_deref().unwrap_or(text);
    if terminal { escape_all(text, |_| false).into_owned() } else { text.replace(['\n', '\r', '\t'], " ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        let long = "ä\u{1}".repeat(100_000);
        let dead = Dead { subscription: None, reason: long.clone(), deliveries: 1, note: Some(long.clone()) };
        let letter = Letter { id: "a".into(), priority: 0, dead: Some(dead) };
        for terminal in [false, true] {
            let shown = letters_table(std::slice::from_ref(&letter), terminal);
            assert!(shown.len() < 20_000 && shown.contains('…'), "{} bytes", shown.len());
        }
        assert_eq!(cell(&long, false).chars().count(), SHOWN + 1);
        assert!(cell(&long, true).ends_with('…'));
    }

    #[test]
    fn letters_are_shown_with_their_story() {
        let letters = [
            r#"{"topic":"t.dead","priority":3,"msg":1,"id":"a","dead":{"topic":"t","subscription":"s","reason":"terminated","deliveries":2,"at":5,"note":"no user"}}"#,
            r#"{"topic":"t.dead","priority":-1,"msg":1,"id":"by-hand"}"#,
        ];
        let letters: Vec<Letter> = letters.iter().map(|letter| serde_json::from_str(letter).unwrap()).collect();
        assert_eq!(
            letters_table(&letters, false),
            "ID       SUBSCRIPTION  REASON      NOTE     PRIORITY  DELIVERIES\n\
             a        s             terminated  no user         3           2\n\
             by-hand  -             -           -              -1           -\n"
        );
    }

    #[test]
    fn a_note_moves_no_cursor_and_keeps_its_column() {
        let letter = "{\"priority\":0,\"msg\":1,\"id\":\"a\",\"dead\":{\"reason\":\"terminated\",\"deliveries\":1,\
                      \"note\":\"x\\u001b[2J\\n\u{202e}\u{9b}y\"}}";
        let letters = [serde_json::from_str(letter).unwrap()];
        let shown = letters_table(&letters, true);
        assert!(shown.contains("  x\\u001b[2J\\u000a\\u202e\\u009by  "), "{shown}");
        assert_eq!(shown.lines().map(str::len).collect::<std::collections::HashSet<_>>().len(), 1, "{shown}");
        assert!(letters_table(&letters, false).contains("  x\u{1b}[2J \u{202e}\u{9b}y  "));
    }
}
