//! Iterates over the elements of raw BSON together with the bytes of their values.

use bson::raw::{RawDocument, RawElement};

/// An element and the bytes of its value, to which the `bson` crate gives no access.
#[derive(Clone)]
pub(super) struct Field<'a> {
    pub(super) element: RawElement<'a>,
    pub(super) bytes: &'a [u8],
}

/// The elements of `document` in order, up to the first malformed one.
pub(super) fn fields(document: &RawDocument) -> impl Iterator<Item = Result<Field<'_>, bson::error::Error>> {
    let bytes = document.as_bytes();
    // A document begins with its length (4 bytes); an element with its type (1 byte) and its zero-terminated key.
    let mut at = 4;
    document.iter_elements().map(move |element| {
        let element = element?;
        let value = at + 1 + element.key().as_str().len() + 1;
        at = value + element.size();
        Ok(Field { bytes: bytes.get(value..at).unwrap_or_default(), element })
    })
}

#[cfg(test)]
mod tests {
    use bson::{RawDocumentBuf, Regex, doc};

    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_value() {
        let regex = Regex { pattern: "^a".try_into().unwrap(), options: "i".try_into().unwrap() };
        let document = RawDocumentBuf::try_from(&doc! { "é": "ab", "none": null, "r": regex, "n": 1 }).unwrap();
        let bytes: Vec<&[u8]> = fields(&document).map(|field| field.unwrap().bytes).collect();
        assert_eq!(bytes, [&b"\x03\0\0\0ab\0"[..], b"", b"^a\0i\0", b"\x01\0\0\0"]);
    }
}
