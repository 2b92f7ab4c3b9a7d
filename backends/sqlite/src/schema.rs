//! The tables, the view `waiting` for queries by people, and the upgrades from version to version.

use rusqlite::Connection;

/// `PRAGMA application_id`, which marks an SQLite file as Herald's: "HRLD".
pub(crate) const APPLICATION_ID: i32 = 0x4852_4c44;

/// `PRAGMA user_version` of these tables.
pub(crate) const VERSION: i64 = UPGRADES.len() as i64;

/// The statements that upgrade version `n` to `n + 1`. Version 0 is the empty file.
const UPGRADES: [&str; 1] = [VERSION_1];

/// Every row has a checksum over all its columns, see `row`.
///
/// Events, settlements and redeliveries are stored in the order of their key, without a second tree for row numbers. So publishing
/// appends, consuming removes from the front, and the rows of one event are adjacent.
const VERSION_1: &str = "
create table topics (
    topic_id integer primary key,
    name text not null unique,
    last_seq integer not null,       -- the highest sequence ever used: never used again
    crc integer not null
) strict;

create table subscriptions (
    subscription_id integer primary key autoincrement,   -- never used again
    topic_id integer not null,
    name text not null,
    since integer not null,          -- it holds the events with a seq above this one
    crc integer not null,
    unique (topic_id, name)
) strict;

create table events (
    topic_id integer not null,
    seq integer not null,
    priority integer not null,
    published_at integer not null,   -- times are milliseconds since 1970
    expires_at integer,
    due_at integer,
    insert_at integer not null,      -- where a redelivery inserts its count
    payload text not null,           -- what is delivered
    crc integer not null,
    primary key (topic_id, seq)
) strict, without rowid;

-- The subscription is done with the event; others are not.
create table settled (
    topic_id integer not null,
    seq integer not null,
    subscription_id integer not null,
    crc integer not null,
    primary key (topic_id, seq, subscription_id)
) strict, without rowid;

-- The subscription got the event back.
create table requeued (
    topic_id integer not null,
    seq integer not null,
    subscription_id integer not null,
    deliveries integer not null,
    due_at integer,
    grace_ms integer not null,       -- milliseconds in flight, which its time to live does not count
    crc integer not null,
    primary key (topic_id, seq, subscription_id)
) strict, without rowid;

create table cursors (
    source text primary key,
    value text not null,
    crc integer not null
) strict, without rowid;

-- What each subscription still has to get, or has in flight.
create view waiting as
select t.name as topic, s.name as subscription, e.priority, e.seq,
    e.payload ->> '$.id' as id,
    e.payload -> '$.msg' as msg,
    coalesce(r.deliveries, 0) as deliveries,
    datetime(e.published_at / 1000, 'unixepoch') as published,
    datetime(case when r.seq is null then e.due_at else r.due_at end / 1000, 'unixepoch') as due,
    datetime(e.expires_at / 1000, 'unixepoch') as expires
from subscriptions s
join topics t using (topic_id)
join events e on e.topic_id = s.topic_id and e.seq > s.since
left join requeued r on r.topic_id = e.topic_id and r.seq = e.seq and r.subscription_id = s.subscription_id
where not exists (
    select 1 from settled x
    where x.topic_id = e.topic_id and x.seq = e.seq and x.subscription_id = s.subscription_id
);
";

/// Upgrades an empty or older database to [`VERSION`], each version in one transaction.
pub(crate) fn upgrade(connection: &mut Connection) -> rusqlite::Result<()> {
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    for (version, statements) in UPGRADES.iter().enumerate().skip(usize::try_from(found).unwrap_or(UPGRADES.len())) {
        if version > 0 {
            tracing::info!(from = version, to = version + 1, "upgrading the format of the database");
        }
        let transaction = connection.transaction()?;
        transaction.execute_batch(statements)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", version as i64 + 1)?;
        transaction.commit()?;
    }
    Ok(())
}
