//! Rewrites single fields of an encoded protobuf message and copies everything else byte by byte.
//!
//! A decoded message has forgotten the fields that this version does not know, and some that it does know belong to somebody
//! else. Both must survive a write of ours.

use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};

/// A field that the writer answers for.
#[derive(Clone, Copy, Debug)]
pub enum Owned {
    /// The whole field, whatever it holds.
    Field(u32),
    /// A message of which only these fields are owned. It goes away with all its content if the writer leaves it out.
    Inside(u32, &'static [Owned]),
}

impl Owned {
    fn tag(self) -> u32 {
        match self {
            Self::Field(tag) | Self::Inside(tag, _) => tag,
        }
    }
}

/// One field on the wire.
struct Field<'a> {
    tag: u32,
    /// Key and value.
    raw: &'a [u8],
    /// Value alone, without length, of a length-delimited field.
    payload: Option<&'a [u8]>,
}

/// Puts the owned fields of `desired` over `existing`. `None` if either is not a well-formed message.
pub fn splice(existing: &[u8], desired: &[u8], owned: &[Owned]) -> Option<Vec<u8>> {
    let existing = fields(existing)?;
    let desired = fields(desired)?;
    let mut out: Vec<(u32, Vec<u8>)> = Vec::new();
    for field in &existing {
        if !owned.iter().any(|one| one.tag() == field.tag) {
            out.push((field.tag, field.raw.to_vec()));
        }
    }
    for one in owned {
        let mine: Vec<&Field<'_>> = desired.iter().filter(|field| field.tag == one.tag()).collect();
        match *one {
            Owned::Field(tag) => out.extend(mine.iter().map(|field| (tag, field.raw.to_vec()))),
            Owned::Inside(_, _) if mine.is_empty() => {}
            Owned::Inside(tag, inner) => {
                // Several occurrences of one message mean their concatenation.
                let theirs: Vec<u8> = payload(existing.iter().filter(|field| field.tag == tag))?;
                let ours: Vec<u8> = payload(mine.into_iter())?;
                let merged = splice(&theirs, &ours, inner)?;
                let mut raw = Vec::with_capacity(merged.len() + 6);
                encode_key(tag, WireType::LengthDelimited, &mut raw);
                encode_varint(merged.len() as u64, &mut raw);
                raw.extend(merged);
                out.push((tag, raw));
            }
        }
    }
    // Stable, so that repeated fields keep their order.
    out.sort_by_key(|(tag, _)| *tag);
    Some(out.into_iter().flat_map(|(_, raw)| raw).collect())
}

fn payload<'a>(mut of: impl Iterator<Item = &'a Field<'a>>) -> Option<Vec<u8>> {
    of.try_fold(Vec::new(), |mut all, field| {
        all.extend_from_slice(field.payload?);
        Some(all)
    })
}

fn fields(mut rest: &[u8]) -> Option<Vec<Field<'_>>> {
    let mut found = Vec::new();
    while !rest.is_empty() {
        let start = rest;
        let (tag, wire_type) = decode_key(&mut rest).ok()?;
        let mut payload = None;
        match wire_type {
            WireType::Varint => {
                decode_varint(&mut rest).ok()?;
            }
            WireType::SixtyFourBit => rest = rest.get(8..)?,
            WireType::ThirtyTwoBit => rest = rest.get(4..)?,
            WireType::LengthDelimited => {
                let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
                payload = Some(rest.get(..length)?);
                rest = rest.get(length..)?;
            }
            // Groups do not exist in proto3.
            WireType::StartGroup | WireType::EndGroup => return None,
        }
        found.push(Field { tag, raw: &start[..start.len() - rest.len()], payload });
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn varint(tag: u32, value: u64) -> Vec<u8> {
        let mut raw = Vec::new();
        encode_key(tag, WireType::Varint, &mut raw);
        encode_varint(value, &mut raw);
        raw
    }

    fn message(tag: u32, content: &[u8]) -> Vec<u8> {
        let mut raw = Vec::new();
        encode_key(tag, WireType::LengthDelimited, &mut raw);
        encode_varint(content.len() as u64, &mut raw);
        raw.extend_from_slice(content);
        raw
    }

    #[test]
    fn foreign_fields_are_copied_and_owned_ones_replaced() {
        let existing = [varint(1, 1), varint(2, 2), message(99, b"new")].concat();
        let desired = [varint(1, 7), varint(2, 9)].concat();
        let merged = splice(&existing, &desired, &[Owned::Field(1)]).unwrap();
        assert_eq!(merged, [varint(1, 7), varint(2, 2), message(99, b"new")].concat());
    }

    #[test]
    fn foreign_fields_inside_an_owned_message_are_copied() {
        let existing = message(2, &[varint(1, 1), varint(4, 44), varint(9, 9)].concat());
        let desired = message(2, &varint(3, 1));
        let owned = [Owned::Inside(2, &[Owned::Field(1), Owned::Field(3)])];
        let merged = splice(&existing, &desired, &owned).unwrap();
        assert_eq!(merged, message(2, &[varint(3, 1), varint(4, 44), varint(9, 9)].concat()));
    }

    #[test]
    fn an_owned_message_that_is_left_out_goes_away() {
        let existing = [message(1, b"\x0a\x01x"), varint(3, 3)].concat();
        let owned = [Owned::Inside(1, &[Owned::Field(1)]), Owned::Inside(2, &[Owned::Field(1)])];
        assert_eq!(
            splice(&existing, &message(2, b"\x0a\x01y"), &owned).unwrap(),
            [message(2, b"\x0a\x01y"), varint(3, 3)].concat()
        );
    }

    #[test]
    fn truncated_messages_are_refused() {
        let whole = message(2, b"abc");
        assert_eq!(splice(&whole[..whole.len() - 1], b"", &[]), None);
        assert_eq!(splice(b"\x0b", b"", &[]), None, "a group");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let owned = [Owned::Field(1), Owned::Inside(2, &[Owned::Field(1)])];
            let _ = splice(&bytes, &bytes, &owned);
        }

        #[test]
        fn owning_nothing_changes_nothing(values in proptest::collection::vec((1u32..50, any::<u64>()), 0..10)) {
            let mut values = values;
            values.sort_by_key(|(tag, _)| *tag);
            let bytes: Vec<u8> = values.iter().flat_map(|(tag, value)| varint(*tag, *value)).collect();
            prop_assert_eq!(splice(&bytes, b"", &[]).unwrap(), bytes);
        }
    }
}
