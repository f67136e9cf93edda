//! Parameters of a ModelInferRequest: ours, the standard timeout, and those that ask for what there is not.

use super::wire::{Fields, Malformed, Span, Value};
use crate::refusal::Refusal;
use crate::texts::{MAX_ID_BYTES, Name, Texts};

const MAX_PARAMETERS: usize = 256;
const ROUTING_KEY: &str = "tickserve_routing_key";
const EVENT_TIME: &str = "tickserve_event_time_unix_ns";
pub(super) const ENTITIES: &str = "tickserve_entities";
pub(super) const FEATURE_DIGEST: &str = "tickserve_feature_digest";
const OWN: [&str; 4] = [ROUTING_KEY, EVENT_TIME, ENTITIES, FEATURE_DIGEST];

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Choice {
    #[default]
    Nothing,
    Other,
    Int(i64),
    Uint(u64),
    Text(Span),
}

/// The parameters of a request or of one of its tensors. As they came until `settle`, then by name; of too many
/// only the number is left.
#[derive(Debug, Default)]
pub(super) struct Parameters {
    entries: Vec<(Span, Choice)>,
    number: usize,
}

/// What a request's parameters ask for.
#[derive(Debug, Default)]
pub(super) struct Options {
    pub(super) routing_key: Span,
    /// Wide enough for both kinds of integers that it may come as.
    pub(super) event_time_unix_ns: i128,
    pub(super) timeout_us: u64,
    pub(super) entities: u64,
    pub(super) entity_text: Span,
    pub(super) feature_digest: Vec<u8>,
}

impl Parameters {
    /// Takes one entry of the map.
    pub(super) fn add(&mut self, fields: &Fields<'_>, entry: Span) -> Result<(), Malformed> {
        let mut fields = fields.within(entry);
        let (mut name, mut choice, mut is_known) = (Span::default(), Choice::default(), true);
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Delimited(span)) => name = fields.text(span)?,
                (2, Value::Delimited(span)) => choose(&mut choice, fields.within(span))?,
                _ => is_known = false,
            }
        }
        // The reference's parser keeps an entry with unknown fields out of the map.
        if is_known {
            self.entries.push((name, choice));
        }
        Ok(())
    }

    /// Brings the entries into the order of their names; of one name the last one stays.
    pub(super) fn settle(&mut self, message: &[u8]) {
        if self.entries.len() > 1 {
            let name = |entry: &(Span, Choice)| &message[entry.0.range()];
            self.entries.reverse();
            self.entries.sort_by(|one, other| name(one).cmp(name(other)));
            self.entries.dedup_by(|later, kept| name(later) == name(kept));
        }
        self.number = self.entries.len();
        if self.number > MAX_PARAMETERS {
            self.entries.clear();
        }
        // A client may have sent millions of one name.
        self.entries.shrink_to(MAX_PARAMETERS);
    }

    /// Refuses parameters of a tensor that ask for what there is not; every other one is accepted.
    pub(super) fn refuse_unsupported(&self, message: &[u8], texts: &Texts) -> Result<(), Refusal> {
        self.check_number(texts)?;
        self.entries
            .iter()
            .try_for_each(|(name, _)| check_offered(text(message, *name), texts))
    }

    /// The options of a request.
    pub(super) fn options(&self, message: &[u8], texts: &Texts) -> Result<Option<Options>, Refusal> {
        self.check_number(texts)?;
        let mut options = None;
        for (span, choice) in &self.entries {
            let name = text(message, *span);
            if name != "timeout" && !name.starts_with("tickserve_") {
                check_offered(name, texts)?;
                continue;
            }
            options
                .get_or_insert_with(Options::default)
                .read(name, *choice, message, texts)?;
        }
        Ok(options)
    }

    fn check_number(&self, texts: &Texts) -> Result<(), Refusal> {
        if self.number > MAX_PARAMETERS {
            let facts = [("got", self.number.into()), ("bound", MAX_PARAMETERS.into())];
            return Err(texts.refuse(Name::TooManyParameters, "parameters", &facts));
        }
        Ok(())
    }
}

impl Options {
    fn read(&mut self, name: &str, choice: Choice, message: &[u8], texts: &Texts) -> Result<(), Refusal> {
        let wrong = |text: Name| Err(texts.refuse(text, name, &[("name", name.into())]));
        match (name, choice) {
            ("timeout", Choice::Uint(timeout_us)) => self.timeout_us = timeout_us,
            ("timeout", Choice::Int(timeout_us @ 0..)) => self.timeout_us = timeout_us.unsigned_abs(),
            ("timeout", _) => return wrong(Name::NotMicroseconds),
            // A misspelt check must not be lost in silence.
            (name, _) if !OWN.contains(&name) => {
                let known = OWN.join(", ");
                let facts = [("name", name.into()), ("known", (&known).into())];
                return Err(texts.refuse(Name::ParameterUnknown, name, &facts));
            }
            (EVENT_TIME, Choice::Int(time)) => self.event_time_unix_ns = time.into(),
            (EVENT_TIME, Choice::Uint(time)) => self.event_time_unix_ns = time.into(),
            (EVENT_TIME, _) => return wrong(Name::NotNanoseconds),
            (ROUTING_KEY, Choice::Text(key)) => {
                check_length(name, text(message, key), texts)?;
                self.routing_key = key;
            }
            (ENTITIES, Choice::Text(span)) => {
                let commas = text(message, span).bytes().filter(|byte| *byte == b',').count();
                self.entities = if span.is_empty() { 0 } else { commas as u64 + 1 };
                self.entity_text = span;
            }
            (FEATURE_DIGEST, Choice::Text(digest)) => match from_hexadecimal(text(message, digest)) {
                Some(digest) => self.feature_digest = digest,
                None => return wrong(Name::NotHexadecimal),
            },
            _ => return wrong(Name::NotAString),
        }
        Ok(())
    }
}

/// Refuses an identifier of more than 64 bytes.
pub(super) fn check_length(name: &str, text: &str, texts: &Texts) -> Result<(), Refusal> {
    if text.len() <= MAX_ID_BYTES {
        return Ok(());
    }
    let facts = [
        ("name", name.into()),
        ("size", text.len().into()),
        ("bound", MAX_ID_BYTES.into()),
    ];
    Err(texts.refuse(Name::TooLong, name, &facts))
}

/// The text of a part that was checked to be text.
pub(super) fn text(message: &[u8], span: Span) -> &str {
    std::str::from_utf8(&message[span.range()]).unwrap_or_default()
}

fn choose(choice: &mut Choice, mut fields: Fields<'_>) -> Result<(), Malformed> {
    while let Some(field) = fields.next()? {
        *choice = match field {
            (1, Value::Varint(_)) | (4, Value::Fixed64(_)) => Choice::Other,
            (2, Value::Varint(number)) => Choice::Int(number.cast_signed()),
            (3, Value::Delimited(span)) => Choice::Text(fields.text(span)?),
            (5, Value::Varint(number)) => Choice::Uint(number),
            _ => *choice,
        };
    }
    Ok(())
}

fn check_offered(name: &str, texts: &Texts) -> Result<(), Refusal> {
    let refused = match name {
        "classification" => Name::Classification,
        _ if name.starts_with("shared_memory_") => Name::SharedMemory,
        _ if name.starts_with("sequence_") => Name::Sequences,
        _ => return Ok(()),
    };
    Err(texts.refuse(refused, name, &[("name", name.into())]))
}

/// Pairs of digits with white space between pairs, as Python's `bytes.fromhex` takes them.
fn from_hexadecimal(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 2);
    let mut rest = text.as_bytes().iter();
    let digit = |byte: &u8| char::from(*byte).to_digit(16).map(|digit| digit as u8);
    while let Some(first) = rest.next() {
        if matches!(first, b' ' | b'\t'..=b'\r') {
            continue;
        }
        bytes.push(digit(first)? << 4 | digit(rest.next()?)?);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digits_come_in_pairs() {
        assert_eq!(from_hexadecimal("00 fF\t\n0a"), Some(vec![0, 255, 10]));
        assert_eq!(from_hexadecimal(" "), Some(vec![]));
        for wrong in ["0", "0 0", "0g", "\u{e9}0", "00\u{a0}00"] {
            assert_eq!(from_hexadecimal(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn of_one_name_the_last_one_stays() {
        let all = b"\x0a\x01b\x0a\x01a\x0a\x01b";
        let (mut fields, mut parameters) = (Fields::new(all).unwrap(), Parameters::default());
        for number in 1.. {
            let Some((1, Value::Delimited(name))) = fields.next().unwrap() else {
                break;
            };
            parameters.entries.push((name, Choice::Int(number)));
        }
        parameters.settle(all);
        let kept: Vec<_> = parameters
            .entries
            .iter()
            .map(|(name, choice)| (text(all, *name), *choice))
            .collect();
        assert_eq!(kept, [("a", Choice::Int(2)), ("b", Choice::Int(3))]);
    }

    #[test]
    fn a_name_given_often_is_kept_once() {
        let same = vec![(Span::default(), Choice::Nothing); 100_000];
        let mut one = Parameters {
            entries: same,
            ..Parameters::default()
        };
        one.settle(b"");
        assert_eq!(one.number, 1);
        assert!(
            one.entries.capacity() <= MAX_PARAMETERS,
            "{}",
            one.entries.capacity()
        );
    }
}
