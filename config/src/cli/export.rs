//! `herald export`: the content of a data directory, as JSON lines.

use broker_core::name::TopicName;
use broker_core::transfer::{Exporter, Index, Totals};

use super::exit::{DONE, Status, UsageError};
use super::offline::{self, Bar, count};
use super::serve::Sources;
use crate::output::{Output, message};

/// Write what a data directory holds to standard output, as JSON lines
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  herald export > backup.jsonl\n  \
                        herald export tweets --set storage.path=/var/lib/herald | jq -c '.event.payload | select(.)'\n  \
                        herald export | herald import - --set storage.kind=sqlite --set storage.path=new\n\n\
                        The broker has to be stopped. The last line holds a count and a checksum; without it `herald\n\
                        import` finds a file incomplete. Everything is in it that a broker needs to go on: order,\n\
                        delivery counts, delays, expiry, subscriptions, the places of sources. An export of one topic\n\
                        leaves the places of sources out.")]
pub(super) struct Args {
    /// One topic instead of all
    topic: Option<String>,
    #[command(flatten)]
    sources: Sources,
}

pub(super) async fn run(args: Args) -> anyhow::Result<Status> {
    let only = args.topic.as_deref().map(|name| {
        TopicName::new(name).map_err(|error| UsageError(format!("invalid topic name \"{name}\": {error}")))
    });
    let only = only.transpose()?;
    let settings = offline::prepare(&args.sources)?;
    offline::must_exist(&settings)?;
    let (storage, index, report) = offline::open(&settings, Index::new(only.clone())).await?;
    if let Some(progress) = index.unfinished_import() {
        return Err(progress.refusal().into());
    }
    if let Some(topic) = only.filter(|topic| !index.has_topic(topic)) {
        anyhow::bail!("there is no topic {topic} in {}", settings.path.display());
    }

    let bar = Bar::new("exporting", Some(index.events()), false);
    let mut exporter = Exporter::new(index);
    let mut output = Output::stdout();
    while let Some(lines) = exporter.next(&*storage).await? {
        output.bytes(&lines)?;
        bar.set(exporter.totals().events);
    }
    output.flush()?;
    bar.finish();
    storage.close().await?;

    message(&format!("herald: exported {}", describe(exporter.totals())));
    let lost = report.damaged + exporter.left_out();
    if lost > 0 {
        message(&format!(
            "herald: {} left out; `herald fsck` says which, and what is lost",
            if lost == 1 { "1 damaged record was".to_owned() } else { format!("{lost} damaged records were") }
        ));
    }
    Ok(DONE)
}

/// The counts of an export, as text.
pub(super) fn describe(totals: &Totals) -> String {
    format!(
        "{}, {}, {}, {}",
        count(totals.topics, "topic"),
        count(totals.subscriptions, "subscription"),
        count(totals.events, "event"),
        count(totals.cursors, "cursor")
    )
}
