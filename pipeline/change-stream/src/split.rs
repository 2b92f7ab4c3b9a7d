//! Reassembles large changes, which the server sends in fragments (`$changeStreamSplitLargeEvent`).

use bson::raw::{RawBsonRef, RawDocument};
use bson::{RawDocumentBuf, doc};

use super::change::Change;
use super::position::Token;

/// The most bytes of BSON in one change. It holds at most the document before, the document after and the updated fields, each up
/// to MongoDB's 16 MiB.
const MAX_BYTES: usize = 64 << 20;

/// The result of adding a document of the stream.
#[derive(Debug)]
pub(super) enum Whole {
    /// A complete change, and the token of its first fragment, from which its id is derived.
    Change(Change, Token),
    /// More fragments are to come. The token of a fragment must not be committed.
    More,
    /// The document is no change, or its fragments do not fit together.
    Unusable(&'static str),
}

/// The fragments received so far of one change.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    parts: Vec<RawDocumentBuf>,
    bytes: usize,
}

impl Fragments {
    /// Whether a change is incomplete.
    pub(super) fn is_pending(&self) -> bool {
        !self.parts.is_empty()
    }

    /// Adds the next document of the stream.
    pub(super) fn push(&mut self, document: RawDocumentBuf) -> Whole {
        let place = document.get_document("splitEvent").ok().map(place);
        let change = Change::new(document.clone());
        let Some(token) = change.token() else { return Whole::Unusable("it has no resume token") };
        let Some(place) = place else {
            self.clear();
            return Whole::Change(change, token);
        };
        let Some((fragment, of)) = place else {
            self.clear();
            return Whole::Unusable("its splitEvent is invalid");
        };
        if fragment != self.parts.len() + 1 || fragment > of {
            self.clear();
            return Whole::Unusable("one of its fragments is missing");
        }
        self.bytes += document.as_bytes().len();
        if self.bytes > MAX_BYTES {
            self.clear();
            return Whole::Unusable("its fragments together are too large");
        }
        self.parts.push(document);
        if fragment < of {
            return Whole::More;
        }
        let parts = std::mem::take(&mut self.parts);
        self.clear();
        join(&parts)
    }

    fn clear(&mut self) {
        self.parts.clear();
        self.bytes = 0;
    }
}

fn place(split: &RawDocument) -> Option<(usize, usize)> {
    let number = |key| match split.get(key) {
        Ok(Some(RawBsonRef::Int32(number))) => usize::try_from(number).ok(),
        Ok(Some(RawBsonRef::Int64(number))) => usize::try_from(number).ok(),
        _ => None,
    };
    Some((number("fragment")?, number("of")?))
}

/// Joins the fields of all fragments. `_id` is the last fragment's: reading continues after it.
fn join(parts: &[RawDocumentBuf]) -> Whole {
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else {
        return Whole::Unusable("it has no fragments");
    };
    let Some(known_by) = Change::new(first.clone()).token() else { return Whole::Unusable("it has no resume token") };
    let mut fields = RawDocumentBuf::new();
    for (part, document) in parts.iter().enumerate() {
        for element in document.iter_elements() {
            let Ok(element) = element else { return Whole::Unusable("it is not valid BSON") };
            let key = element.key();
            let wanted = match key.as_str() {
                "splitEvent" => false,
                "_id" => part == 0,
                _ => true,
            };
            if !wanted {
                continue;
            }
            if key.as_str() == "_id" {
                let Ok(token) = last.get_document("_id") else { return Whole::Unusable("it has no resume token") };
                fields.append(key, token.to_owned());
                continue;
            }
            let Ok(value) = element.value() else { return Whole::Unusable("it is not valid BSON") };
            fields.append(key, value);
        }
    }
    Whole::Change(Change::new(fields), known_by)
}

/// The pipeline stage that asks the server to split.
pub(super) fn stage() -> bson::Document {
    doc! { "$changeStreamSplitLargeEvent": {} }
}

#[cfg(test)]
mod tests {
    use bson::{Document, rawdoc};

    use super::*;
    use pipeline_source::mapping::Pointer;

    fn raw(document: Document) -> RawDocumentBuf {
        RawDocumentBuf::try_from(&document).unwrap()
    }

    fn fragment(number: i32, of: i32, field: &str) -> RawDocumentBuf {
        raw(
            doc! { "_id": { "_data": format!("82{number}") }, "splitEvent": { "fragment": number, "of": of }, field: number },
        )
    }

    #[test]
    fn fragments_become_one_change_with_the_last_token_and_the_id_of_the_first() {
        let mut fragments = Fragments::default();
        assert!(matches!(fragments.push(fragment(1, 3, "a")), Whole::More));
        assert!(fragments.is_pending());
        assert!(matches!(fragments.push(fragment(2, 3, "b")), Whole::More));
        let Whole::Change(change, known_by) = fragments.push(fragment(3, 3, "c")) else { panic!("it is complete") };
        assert!(!fragments.is_pending());
        let whole = change.find(&Pointer::new("").unwrap()).unwrap().unwrap();
        assert_eq!(whole, r#"{"_id":{"_data":"823"},"a":1,"b":2,"c":3}"#);
        assert_eq!(known_by.text(), "821");
    }

    #[test]
    fn fragments_that_do_not_fit_together_are_reported_and_discarded() {
        let mut fragments = Fragments::default();
        assert!(matches!(fragments.push(fragment(2, 3, "b")), Whole::Unusable(_)));
        assert!(matches!(fragments.push(fragment(1, 2, "a")), Whole::More));
        assert!(matches!(fragments.push(fragment(1, 2, "a")), Whole::Unusable(_)), "the first one again");
        assert!(!fragments.is_pending());
        assert!(matches!(
            fragments.push(raw(doc! { "_id": { "_data": "1" }, "splitEvent": { "of": "x" } })),
            Whole::Unusable(_)
        ));
        assert!(matches!(fragments.push(rawdoc! { "a": 1 }), Whole::Unusable(_)));
        assert!(matches!(fragments.push(raw(doc! { "_id": { "_data": "1" }, "a": 1 })), Whole::Change(..)));
    }
}
