//! Protobuf's wire format, read as the reference's parser reads it, so that both take the same messages.
//!
//! A field of another wire type than declared is an unknown field, and skipped; groups nest at most `MAX_DEPTH` deep.

const MAX_DEPTH: u8 = 100;
const MAX_FIELD_NUMBER: u64 = (1 << 29) - 1;

/// The bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// A part of the message; half the size of a slice, since a client decides how many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// The size in bytes.
    pub fn size(self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether there is nothing in it.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Where it lies in the message.
    pub fn range(self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// The value of one field, by its wire type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Value {
    Varint(u64),
    Fixed64(Span),
    Fixed32(Span),
    Delimited(Span),
    /// No message here has groups, so they are never looked into.
    Group,
}

/// The fields of a message, or of a part of it that is a message.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    message: &'a [u8],
    at: usize,
    end: usize,
    depth: u8,
}

impl<'a> Fields<'a> {
    /// The fields of a whole message.
    pub fn new(message: &'a [u8]) -> Result<Self, Malformed> {
        if u32::try_from(message.len()).is_err() {
            return Err(Malformed);
        }
        Ok(Self {
            message,
            at: 0,
            end: message.len(),
            depth: MAX_DEPTH,
        })
    }

    /// The fields of a part.
    pub fn within(&self, span: Span) -> Self {
        Self {
            message: self.message,
            at: span.start as usize,
            end: span.end as usize,
            depth: self.depth - 1,
        }
    }

    /// The bytes of a part.
    pub fn bytes(&self, span: Span) -> &'a [u8] {
        &self.message[span.range()]
    }

    /// The bytes of a fixed field of this size.
    pub fn fixed<const SIZE: usize>(&self, span: Span) -> Result<[u8; SIZE], Malformed> {
        self.bytes(span).try_into().map_err(|_| Malformed)
    }

    /// A part that must be text.
    pub fn text(&self, span: Span) -> Result<Span, Malformed> {
        match std::str::from_utf8(self.bytes(span)) {
            Ok(_) => Ok(span),
            Err(_) => Err(Malformed),
        }
    }

    /// Number and value of the next field, or None at the end.
    pub fn next(&mut self) -> Result<Option<(u32, Value)>, Malformed> {
        if self.at == self.end {
            return Ok(None);
        }
        let (number, wire_type) = self.key()?;
        if wire_type == 3 {
            self.skip_group(number, self.depth)?;
            return Ok(Some((number, Value::Group)));
        }
        Ok(Some((number, self.value(wire_type)?)))
    }

    fn value(&mut self, wire_type: u8) -> Result<Value, Malformed> {
        Ok(match wire_type {
            0 => Value::Varint(self.varint(10)?),
            1 => Value::Fixed64(self.take(8)?),
            2 => {
                let size = usize::try_from(self.varint(10)?).map_err(|_| Malformed)?;
                Value::Delimited(self.take(size)?)
            }
            5 => Value::Fixed32(self.take(4)?),
            _ => return Err(Malformed),
        })
    }

    fn key(&mut self) -> Result<(u32, u8), Malformed> {
        let key = self.varint(5)?;
        let number = key >> 3;
        if number == 0 || number > MAX_FIELD_NUMBER {
            return Err(Malformed);
        }
        Ok((number as u32, (key & 7) as u8))
    }

    fn skip_group(&mut self, group: u32, depth: u8) -> Result<(), Malformed> {
        let depth = depth.checked_sub(1).ok_or(Malformed)?;
        loop {
            match self.key()? {
                (number, 4) if number == group => return Ok(()),
                (number, 3) => self.skip_group(number, depth)?,
                (_, wire_type) => _ = self.value(wire_type)?,
            }
        }
    }

    fn take(&mut self, size: usize) -> Result<Span, Malformed> {
        if size > self.end - self.at {
            return Err(Malformed);
        }
        let span = Span {
            start: self.at as u32,
            end: (self.at + size) as u32,
        };
        self.at += size;
        Ok(span)
    }

    fn varint(&mut self, max_bytes: usize) -> Result<u64, Malformed> {
        let rest = &self.message[self.at..self.end];
        let (number, size) = varint(rest, max_bytes).ok_or(Malformed)?;
        self.at += size;
        Ok(number)
    }
}

/// The varint that bytes start with, and its size. Bits beyond the 64th are lost.
pub fn varint(bytes: &[u8], max_bytes: usize) -> Option<(u64, usize)> {
    let mut number = 0;
    for (index, byte) in bytes.iter().take(max_bytes).enumerate() {
        number |= u64::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((number, index + 1));
        }
    }
    None
}

/// The varints that a packed field holds.
pub fn packed(mut bytes: &[u8]) -> impl Iterator<Item = Result<u64, Malformed>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let Some((number, size)) = varint(bytes, 10) else {
            bytes = &[];
            return Some(Err(Malformed));
        };
        bytes = &bytes[size..];
        Some(Ok(number))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(message: &[u8]) -> Result<Vec<(u32, Value)>, Malformed> {
        let (mut fields, mut found) = (Fields::new(message)?, Vec::new());
        while let Some(field) = fields.next()? {
            found.push(field);
        }
        Ok(found)
    }

    #[test]
    fn keys_have_at_most_five_bytes_and_a_number() {
        let text = (1, Value::Delimited(Span { start: 6, end: 7 }));
        assert_eq!(all(b"\x8a\x80\x80\x80\x00\x01a"), Ok(vec![text]));
        for wrong in [
            &b"\x8a\x80\x80\x80\x80\x00\x01a"[..],
            b"\x8a\x80\x80\x80\x10\x01a",
            b"\x02\x01a",
            b"\x0e\x01",
        ] {
            assert_eq!(all(wrong), Err(Malformed), "{wrong:?}");
        }
    }

    #[test]
    fn a_varint_has_at_most_ten_bytes_and_64_bits() {
        assert_eq!(
            all(b"\x60\x81\x81\x81\x81\x81\x81\x81\x81\x81\x7f").unwrap(),
            [(12, Value::Varint(9295997013522923649))]
        );
        assert_eq!(
            all(b"\x60\x81\x81\x81\x81\x81\x81\x81\x81\x81\x81\x01"),
            Err(Malformed)
        );
        assert_eq!(all(b"\x60\x81"), Err(Malformed));
    }

    #[test]
    fn groups_are_skipped_to_their_own_end_and_nest_to_a_bound() {
        assert_eq!(
            all(b"\x7b\x08\x05\x12\x01a\x7c\x60\x01").unwrap(),
            [(15, Value::Group), (12, Value::Varint(1))]
        );
        for wrong in [&b"\x7b\x74"[..], b"\x7b", b"\x0c", b"\x7b\x0e\x7c"] {
            assert_eq!(all(wrong), Err(Malformed), "{wrong:?}");
        }
        let nested = |depth: usize| [vec![0x7b; depth], vec![0x7c; depth]].concat();
        assert!(all(&nested(100)).is_ok());
        assert_eq!(all(&nested(101)), Err(Malformed));
        let inside = |depth| {
            let part = nested(depth);
            let fields = Fields::new(&part).unwrap();
            fields
                .within(Span {
                    start: 0,
                    end: part.len() as u32,
                })
                .next()
                .map(|_| ())
        };
        assert_eq!((inside(99), inside(100)), (Ok(()), Err(Malformed)));
    }

    #[test]
    fn lengths_stay_inside_their_message() {
        assert_eq!(all(b"\x0a\x02a"), Err(Malformed));
        assert_eq!(
            all(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
            Err(Malformed)
        );
        assert_eq!(all(b"\x2d\x00\x00\x00"), Err(Malformed));
    }

    #[test]
    fn packed_varints_end_with_the_first_that_does_not() {
        assert_eq!(packed(b"\x01\x80\x01").collect::<Vec<_>>(), [Ok(1), Ok(128)]);
        assert_eq!(packed(b"\x01\x80").collect::<Vec<_>>(), [Ok(1), Err(Malformed)]);
    }
}
