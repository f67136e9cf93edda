//! Texts of refusals: the table of server/engine/texts.py, compiled at start and filled with facts on refusal.

mod facts;
mod names;
mod template;

use thiserror::Error;

pub use self::facts::{Fact, bounded, rounded};
pub use self::names::Name;
use self::template::Template;
use crate::refusal::{Reason, Refusal};

const MAX_FIELD_BYTES: usize = 200;
/// An identifier that a client chose is repeated up to this size.
pub const MAX_ID_BYTES: usize = 64;

/// One text as the control plane hands it in: plain data, named as in the table of Python.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Entry {
    pub name: String,
    /// Name of a gRPC status, such as INVALID_ARGUMENT.
    pub code: String,
    /// Name of a reason of the closed list.
    pub reason: Option<String>,
    pub template: String,
    pub executed: bool,
}

/// Why a table of texts is not one that this engine can speak from.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum TableError {
    #[error("text {0} is missing from the table")]
    Missing(&'static str),
    #[error("text {0} of the table is unknown to this engine")]
    Unknown(String),
    #[error("text {0} is twice in the table")]
    Twice(String),
    #[error("text {name} has status {code}, which gRPC does not know")]
    Code { name: String, code: String },
    #[error("text {name} has reason {reason}, which is not of the closed list")]
    Reason { name: String, reason: String },
    #[error("text {name} asks for {{{fact}}}, which this engine does not tell")]
    Fact { name: String, fact: String },
    #[error("the template of text {name} is not plain text with named fields")]
    Template { name: String },
}

/// All texts, by name.
#[derive(Debug)]
pub struct Texts {
    texts: Vec<Text>,
}

#[derive(Debug)]
struct Text {
    code: i32,
    reason: Option<Reason>,
    executed: bool,
    template: Template,
}

impl Texts {
    /// Compiles a table. It must hold exactly the texts that this engine knows, and ask for no fact beyond theirs.
    pub fn new(entries: impl IntoIterator<Item = Entry>) -> Result<Self, TableError> {
        let mut found: Vec<Option<Text>> = Name::ALL.iter().map(|_| None).collect();
        for entry in entries {
            let Some(name) = Name::ALL.iter().find(|name| name.label() == entry.name) else {
                return Err(TableError::Unknown(entry.name));
            };
            if found[*name as usize].is_some() {
                return Err(TableError::Twice(entry.name));
            }
            found[*name as usize] = Some(Text::new(*name, entry)?);
        }
        let text = |(text, name): (Option<Text>, &Name)| text.ok_or(TableError::Missing(name.label()));
        let texts = found
            .into_iter()
            .zip(Name::ALL)
            .map(text)
            .collect::<Result<_, _>>()?;
        Ok(Self { texts })
    }

    /// The text with these facts.
    pub fn fill(&self, name: Name, facts: &[(&str, Fact<'_>)]) -> String {
        debug_assert!(
            facts.len() == name.facts().len(),
            "{} is told {facts:?}",
            name.label()
        );
        self.texts[name as usize].template.fill(facts)
    }

    /// The number of the gRPC status that a text goes with.
    pub fn code(&self, name: Name) -> i32 {
        self.texts[name as usize].code
    }

    /// The refusal with this text; `at` is the field or tensor at fault, or empty.
    pub fn refuse(&self, name: Name, at: &str, facts: &[(&str, Fact<'_>)]) -> Refusal {
        debug_assert!(
            facts.len() == name.facts().len(),
            "{} is told {facts:?}",
            name.label()
        );
        let text = &self.texts[name as usize];
        Refusal {
            code: text.code,
            reason: text.reason,
            message: text.template.fill(facts),
            field: bounded(at, MAX_FIELD_BYTES),
            executed: text.executed,
            request_id: String::new(),
        }
    }
}

impl Text {
    fn new(name: Name, entry: Entry) -> Result<Self, TableError> {
        let Some(code) = CODES.iter().position(|code| *code == entry.code) else {
            return Err(TableError::Code {
                name: entry.name,
                code: entry.code,
            });
        };
        let reason = match entry.reason {
            None => None,
            Some(label) => match Reason::named(&label) {
                None => {
                    return Err(TableError::Reason {
                        name: entry.name,
                        reason: label,
                    });
                }
                reason => reason,
            },
        };
        let Some(template) = Template::parse(&entry.template) else {
            return Err(TableError::Template { name: entry.name });
        };
        if let Some(fact) = template.facts().find(|fact| !name.facts().contains(fact)) {
            return Err(TableError::Fact {
                fact: fact.to_owned(),
                name: entry.name,
            });
        }
        Ok(Self {
            code: i32::try_from(code).unwrap_or_default(),
            reason,
            executed: entry.executed,
            template,
        })
    }
}

/// The statuses of gRPC, by their numbers.
pub(crate) const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

impl Reason {
    const ALL: [(&str, Self); 13] = [
        ("OVERLOADED", Self::Overloaded),
        ("RATE_LIMITED", Self::RateLimited),
        ("DRAINING", Self::Draining),
        ("LOADING", Self::Loading),
        ("HALTED", Self::Halted),
        ("STALE_INPUT", Self::StaleInput),
        ("OUTPUT_RULE", Self::OutputRule),
        ("FEATURES_CHANGED", Self::FeaturesChanged),
        ("PIN_REFUSED", Self::PinRefused),
        ("INVALID_INPUT", Self::InvalidInput),
        ("NOT_FOUND", Self::NotFound),
        ("DEADLINE", Self::Deadline),
        ("INTERNAL", Self::Internal),
    ];

    /// The reason that the closed list names so.
    pub fn named(label: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(name, _)| *name == label)
            .map(|(_, reason)| *reason)
    }

    /// The name in the closed list.
    pub fn label(self) -> &'static str {
        Self::ALL[self as usize - 1].0
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A table of every name with its facts, for tests: `NAME fact=value fact=value`.
    pub(crate) fn plain() -> Texts {
        Texts::new(Name::ALL.iter().map(|name| entry(*name))).unwrap()
    }

    fn entry(name: Name) -> Entry {
        let facts: Vec<_> = name
            .facts()
            .iter()
            .map(|fact| format!(" {fact}={{{fact}}}"))
            .collect();
        Entry {
            name: name.label().to_owned(),
            code: "INVALID_ARGUMENT".to_owned(),
            reason: Some("INVALID_INPUT".to_owned()),
            template: format!("{}{}", name.label(), facts.concat()),
            executed: false,
        }
    }

    #[test]
    fn every_reason_has_its_own_number() {
        for (index, (label, reason)) in Reason::ALL.into_iter().enumerate() {
            assert_eq!((reason as usize, reason.label()), (index + 1, label));
            assert_eq!(Reason::named(label), Some(reason));
        }
    }

    #[test]
    fn a_table_must_hold_exactly_the_known_texts() {
        let all = || Name::ALL.iter().map(|name| entry(*name));
        assert_eq!(
            Texts::new(all().skip(1)).unwrap_err(),
            TableError::Missing("MALFORMED")
        );
        assert_eq!(
            Texts::new(all().chain(all().take(1))).unwrap_err(),
            TableError::Twice("MALFORMED".into())
        );
        let other = Entry {
            name: "OTHER".into(),
            ..entry(Name::Malformed)
        };
        assert_eq!(
            Texts::new(all().chain([other])).unwrap_err(),
            TableError::Unknown("OTHER".into())
        );
    }

    #[test]
    fn a_wrong_entry_is_named() {
        let with = |change: fn(&mut Entry)| {
            let mut entries: Vec<_> = Name::ALL.iter().map(|name| entry(*name)).collect();
            change(&mut entries[0]);
            Texts::new(entries).unwrap_err().to_string()
        };
        assert!(with(|entry| entry.template = "{other}".into()).contains("MALFORMED asks for {other}"));
        assert!(with(|entry| entry.template = "{message!r}".into()).contains("MALFORMED is not plain"));
        assert!(with(|entry| entry.code = "ODD".into()).contains("MALFORMED has status ODD"));
        assert!(with(|entry| entry.reason = Some("ODD".into())).contains("MALFORMED has reason ODD"));
    }

    #[test]
    fn refusals_carry_a_bounded_text_and_field() {
        let long = "\u{20ac}".repeat(2000);
        let refusal = plain().refuse(Name::FeatureTwice, &long, &[("feature", Fact::Text(&long))]);
        assert_eq!((refusal.code, refusal.reason), (3, Some(Reason::InvalidInput)));
        assert!(refusal.message.len() <= 1000 && refusal.message.ends_with("..."));
        assert!(refusal.field.len() <= 200 && refusal.field.ends_with("..."));
    }
}
