//! Reads payloads by key, and records that may be stored in parts.

use broker_core::event::Payload;
use broker_core::name::TopicName;
use broker_core::storage::{ReadKey, StorageError, StoredEvent};
use sled::IVec;

use crate::error::SledError;
use crate::keys;
use crate::record::{self, Bad, PART_BYTES};
use crate::storage::SledDatabase;

/// The body of a record that may be stored in parts; `value` is its first value.
pub(crate) fn assemble(tree: &sled::Tree, key: &[u8], value: &IVec) -> sled::Result<Result<Vec<u8>, Bad>> {
    let first = match record::unseal(key, value) {
        Ok(first) => first,
        Err(bad) => return Ok(Err(bad)),
    };
    let Some((len, head)) = first.split_first_chunk::<4>() else { return Ok(Err("it is too short")) };
    let len = u32::from_le_bytes(*len) as usize;
    let mut body = Vec::with_capacity(len.min(head.len() + (PART_BYTES << 8)));
    body.extend_from_slice(head);
    let mut number = 0;
    while body.len() < len {
        let at = keys::part(key, number);
        let Some(part) = tree.get(&at)? else { return Ok(Err("a part of it is missing")) };
        match record::unseal(&at, &part) {
            Ok(part) => body.extend_from_slice(part),
            Err(_) => return Ok(Err("a part of it is damaged")),
        }
        number += 1;
    }
    Ok(if body.len() == len { Ok(body) } else { Err("its parts are longer than its length") })
}

/// Decodes the event under `key`.
pub(crate) fn event(
    tree: &sled::Tree,
    key: &[u8],
    value: &IVec,
    topic: &TopicName,
) -> sled::Result<Result<StoredEvent, Bad>> {
    let body = match assemble(tree, key, value)? {
        Ok(body) => body,
        Err(bad) => return Ok(Err(bad)),
    };
    let seq = keys::seq_of(key).unwrap_or_default();
    Ok(record::decode_event(&body, topic, seq).ok_or("it is not an event"))
}

/// Reads payloads in the order of `keys`. Blocking.
pub(crate) fn read(shared: &SledDatabase, keys: &[ReadKey]) -> Result<Vec<Option<Payload>>, StorageError> {
    // Held until the read ends, so that closing waits for it.
    let guard = shared.open.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    let database = guard.as_ref().ok_or_else(StorageError::closed)?;
    let mut answer = Vec::with_capacity(keys.len());
    let mut topic: Option<(&TopicName, Option<u32>)> = None;
    for wanted in keys {
        let number = match topic {
            Some((name, number)) if *name == wanted.topic => number,
            _ => {
                let number = shared.topics.get(&wanted.topic);
                topic = Some((&wanted.topic, number));
                number
            }
        };
        let Some(number) = number else {
            answer.push(None);
            continue;
        };
        let key = keys::event(number, wanted.key.seq.0);
        let found = match database.db.get(&key) {
            Ok(Some(value)) => event(&database.db, &key, &value, &wanted.topic),
            Ok(None) => {
                answer.push(None);
                continue;
            }
            Err(error) => Err(error),
        };
        answer.push(match found {
            Ok(Ok(event)) if event.key == wanted.key => Some(event.payload),
            Ok(Ok(_)) => {
                shared.state.damage(&keys::describe(&key), "it has a different priority than the requested event");
                None
            }
            Ok(Err(what)) => {
                shared.state.damage(&keys::describe(&key), what);
                None
            }
            // sled's own page is damaged; a retry cannot help.
            Err(sled::Error::Corruption { .. }) => {
                shared.state.damage(&keys::describe(&key), "sled cannot read it");
                None
            }
            Err(source) => return Err(SledError::sled("read", &database.path, source).into_read_error()),
        });
    }
    Ok(answer)
}
