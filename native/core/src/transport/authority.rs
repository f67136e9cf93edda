//! The `:authority` of a Unix socket, which gRPC's C core sends as the socket's path, percent-encoded.
//!
//! h2 resets a call whose authority has a `%` outside of user information, so each is respelled as `-` on its way in.
//! Nothing here reads the authority, and a respelled one is as long as it was: frames and HPACK's table stay in step.
//! Text under Huffman's code, which the C core does not use for it, is left alone and meets h2's own refusal.

use super::frames::{CONTINUATION, FLAG_PADDED, FLAG_PRIORITY, HEADERS, Piece};

const NAME: &[u8] = b":authority";
/// Of `:authority` in HPACK's static table.
const NAME_INDEX: usize = 1;
const PRIORITY_BYTES: usize = 5;
/// Lengths that a block within h2's bound can have take fewer bits.
const MAX_SHIFT: u32 = 28;

/// Respells the header blocks of one connection, however their bytes are cut.
#[derive(Debug, Default)]
pub(super) struct Authorities {
    state: State,
    /// Bytes of the block still to come in this frame.
    block: usize,
    has_padding_length: bool,
    has_priority: bool,
    is_within_headers: bool,
}

/// Where in a header block the next byte is (RFC 7541, sections 5 and 6).
#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Field,
    /// Bits of a number after those in its first byte.
    Number {
        value: usize,
        shift: u32,
        then: Then,
    },
    NameLength,
    /// `matched` counts the bytes that are those of `NAME`; None where one was not.
    Name {
        left: usize,
        matched: Option<usize>,
    },
    ValueLength {
        is_authority: bool,
    },
    Value {
        left: usize,
        is_respelled: bool,
    },
    /// No block of a client that h2 would serve; everything passes as it is.
    Lost,
}

/// What a number is.
#[derive(Clone, Copy, Debug)]
enum Then {
    Skip,
    NameIndex,
    Name { is_plain: bool },
    Value { is_respelled: bool },
}

impl Authorities {
    /// Takes the next piece of what was read.
    pub(super) fn respell(&mut self, piece: &mut Piece<'_>) {
        match piece {
            Piece::Head { kind, flags, length } => {
                self.is_within_headers = matches!(*kind, HEADERS | CONTINUATION);
                if !self.is_within_headers {
                    return;
                }
                if *kind == HEADERS {
                    self.state = State::Field;
                }
                self.block = *length;
                self.has_padding_length = *kind == HEADERS && *flags & FLAG_PADDED != 0;
                self.has_priority = *kind == HEADERS && *flags & FLAG_PRIORITY != 0;
            }
            Piece::Payload { bytes } if self.is_within_headers => {
                for byte in bytes.iter_mut() {
                    self.take(byte);
                }
            }
            Piece::Payload { .. } => {}
        }
    }

    fn take(&mut self, byte: &mut u8) {
        if self.has_padding_length {
            self.has_padding_length = false;
            self.block = self.block.saturating_sub(1 + usize::from(*byte));
            return;
        }
        if self.has_priority {
            // Counted in `Value`, whose bytes are passed over like any others.
            self.has_priority = false;
            self.state = State::Value {
                left: PRIORITY_BYTES,
                is_respelled: false,
            };
        }
        if self.block == 0 {
            return;
        }
        self.block -= 1;
        self.state = self.state.after(byte);
    }
}

impl State {
    fn after(self, byte: &mut u8) -> Self {
        match self {
            Self::Field => match *byte {
                first if first & 0x80 != 0 => number(first, 7, Then::Skip),
                first if first & 0x40 != 0 => number(first, 6, Then::NameIndex),
                first if first & 0x20 != 0 => number(first, 5, Then::Skip),
                first => number(first, 4, Then::NameIndex),
            },
            Self::Number { value, shift, then } => {
                if shift > MAX_SHIFT {
                    return Self::Lost;
                }
                let value = value + (usize::from(*byte & 0x7f) << shift);
                if *byte & 0x80 == 0 {
                    then.begin(value)
                } else {
                    let shift = shift + 7;
                    Self::Number { value, shift, then }
                }
            }
            Self::NameLength => {
                let is_plain = *byte & 0x80 == 0;
                number(*byte, 7, Then::Name { is_plain })
            }
            Self::Name { left, matched } => {
                let matched = matched.filter(|&at| NAME.get(at) == Some(byte)).map(|at| at + 1);
                name(left - 1, matched)
            }
            Self::ValueLength { is_authority } => {
                let is_respelled = is_authority && *byte & 0x80 == 0;
                number(*byte, 7, Then::Value { is_respelled })
            }
            Self::Value { left, is_respelled } => {
                if is_respelled && *byte == b'%' {
                    *byte = b'-';
                }
                value(left - 1, is_respelled)
            }
            Self::Lost => Self::Lost,
        }
    }
}

impl Then {
    fn begin(self, number: usize) -> State {
        match self {
            Self::Skip => State::Field,
            Self::NameIndex if number == 0 => State::NameLength,
            Self::NameIndex => State::ValueLength {
                is_authority: number == NAME_INDEX,
            },
            Self::Name { is_plain } => name(number, is_plain.then_some(0)),
            Self::Value { is_respelled } => value(number, is_respelled),
        }
    }
}

fn number(first: u8, bits: u32, then: Then) -> State {
    let mask = (1 << bits) - 1;
    let value = usize::from(first) & mask;
    if value < mask {
        return then.begin(value);
    }
    State::Number {
        value,
        shift: 0,
        then,
    }
}

fn name(left: usize, matched: Option<usize>) -> State {
    if left > 0 {
        return State::Name { left, matched };
    }
    State::ValueLength {
        is_authority: matched == Some(NAME.len()),
    }
}

fn value(left: usize, is_respelled: bool) -> State {
    if left > 0 {
        return State::Value { left, is_respelled };
    }
    State::Field
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::frames::{Frames, PREFACE_BYTES};
    use super::*;

    const FLAG_END_HEADERS: u8 = 0x4;

    fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
        let mut field = vec![0x40, name.len() as u8];
        field.extend(name);
        field.extend(long(value.len()));
        field.extend(value);
        field
    }

    fn long(length: usize) -> Vec<u8> {
        if length < 127 {
            return vec![length as u8];
        }
        let mut rest = length - 127;
        let mut bytes = vec![127];
        while rest >= 128 {
            bytes.push((rest % 128) as u8 | 0x80);
            rest /= 128;
        }
        bytes.push(rest as u8);
        bytes
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        bytes.extend(payload);
        bytes
    }

    /// What h2 gets of `sent`, read in pieces of these sizes.
    fn through(sent: &[u8], cuts: &[usize]) -> Vec<u8> {
        let mut frames = Frames::default();
        let mut authorities = Authorities::default();
        let mut bytes = vec![b'p'; PREFACE_BYTES];
        bytes.extend(sent);
        let (mut at, mut cuts) = (0, cuts.iter().cycle());
        while at < bytes.len() {
            let end = (at + cuts.next().copied().unwrap_or(usize::MAX).min(bytes.len())).min(bytes.len());
            let mut rest = &mut bytes[at..end];
            while let Some(mut piece) = frames.next(&mut rest) {
                authorities.respell(&mut piece);
            }
            at = end;
        }
        bytes.split_off(PREFACE_BYTES)
    }

    #[test]
    fn an_authority_is_respelled_by_name_and_by_index() {
        for field in [
            literal(NAME, b"%2Ftmp%2Fx"),
            [&[0x41, 10][..], b"%2Ftmp%2Fx"].concat(),
            [&[0x01, 10][..], b"%2Ftmp%2Fx"].concat(),
        ] {
            let sent = frame(HEADERS, FLAG_END_HEADERS, &field);
            let got = through(&sent, &[]);
            assert_eq!(got[got.len() - 10..], *b"-2Ftmp-2Fx");
            assert_eq!(got[..got.len() - 10], sent[..sent.len() - 10]);
        }
    }

    #[test]
    fn padding_and_priority_are_no_fields() {
        let block = literal(NAME, b"%2Fx");
        let mut payload = vec![3, 0, 0, 0, 0, 16];
        payload.extend(&block);
        payload.extend(b"%%%");
        let got = through(
            &frame(HEADERS, FLAG_END_HEADERS | FLAG_PADDED | FLAG_PRIORITY, &payload),
            &[],
        );
        assert_eq!(got[got.len() - 7..], *b"-2Fx%%%");
    }

    #[test]
    fn what_is_coded_or_too_long_passes_as_it_is() {
        let mut coded = literal(NAME, b"%2Fx");
        coded[12] |= 0x80;
        let mut endless = vec![0x7f];
        endless.extend([0xff; 12]);
        endless.extend(literal(NAME, b"%2Fx"));
        for block in [coded, endless] {
            let sent = frame(HEADERS, FLAG_END_HEADERS, &block);
            assert_eq!(through(&sent, &[]), sent);
        }
    }

    proptest! {
        #[test]
        fn only_authorities_change_however_the_bytes_are_cut(
            fields in prop::collection::vec((prop::sample::select(vec![&b":path"[..], NAME, b":authorit", b":authority2", b"x"]),
                prop::collection::vec(prop::sample::select(vec![b'%', b'a', b'-', b'2']), 0..300)), 1..8),
            cuts in prop::collection::vec(1usize..50, 1..20),
            split in 0usize..400,
        ) {
            let spelled = |respell: bool| -> Vec<u8> {
                let block: Vec<u8> = fields.iter().flat_map(|(name, value)| {
                    let value: Vec<u8> = value.iter()
                        .map(|&byte| if respell && *name == NAME && byte == b'%' { b'-' } else { byte })
                        .collect();
                    literal(name, &value)
                }).collect();
                let (one, other) = block.split_at(split.min(block.len()));
                [frame(HEADERS, 0, one), frame(CONTINUATION, FLAG_END_HEADERS, other), frame(0, 0, b"%2F%")].concat()
            };
            prop_assert_eq!(through(&spelled(false), &cuts), spelled(true));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), cuts in prop::collection::vec(1usize..50, 1..20)) {
            let _ = through(&bytes, &cuts);
            let _ = through(&frame(HEADERS, FLAG_END_HEADERS | FLAG_PADDED | FLAG_PRIORITY, &bytes), &cuts);
        }
    }
}
