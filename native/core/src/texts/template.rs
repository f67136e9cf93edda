//! Templates: text with named fields in braces, as Python's `str.format` takes it, without conversions or formats.

use super::facts::{Fact, bounded};

const MAX_TEXT_BYTES: usize = 1000;

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Plain(String),
    Fact(String),
}

/// A template cut into its parts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Template(Vec<Part>);

impl Template {
    /// None where a brace is left open or a field is more than a name.
    pub(super) fn parse(template: &str) -> Option<Self> {
        let (mut parts, mut plain, mut rest) = (Vec::new(), String::new(), template);
        while let Some(place) = rest.find(['{', '}']) {
            plain.push_str(&rest[..place]);
            let brace = &rest[place..=place];
            rest = &rest[place + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                plain.push_str(brace);
                rest = after;
                continue;
            }
            let (fact, after) = rest.split_once('}').filter(|_| brace == "{")?;
            if fact.is_empty() || !fact.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase()) {
                return None;
            }
            parts.push(Part::Plain(std::mem::take(&mut plain)));
            parts.push(Part::Fact(fact.to_owned()));
            rest = after;
        }
        parts.push(Part::Plain(plain + rest));
        Some(Self(parts))
    }

    /// The names of the fields.
    pub(super) fn facts(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Fact(name) => Some(name.as_str()),
            Part::Plain(_) => None,
        })
    }

    /// The text with these facts, bounded; a fact that is not given stays out.
    pub(super) fn fill(&self, facts: &[(&str, Fact<'_>)]) -> String {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Plain(plain) => text.push_str(plain),
                Part::Fact(name) => {
                    if let Some((_, fact)) = facts.iter().find(|(given, _)| given == name) {
                        fact.write(&mut text);
                    }
                }
            }
        }
        bounded(&text, MAX_TEXT_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_filled_and_doubled_braces_stand_for_one() {
        let template = Template::parse("{{{a}}} of {b_c}: {a}").unwrap();
        assert_eq!(template.facts().collect::<Vec<_>>(), ["a", "b_c", "a"]);
        assert_eq!(
            template.fill(&[("a", Fact::Int(3)), ("b_c", Fact::Text("x"))]),
            "{3} of x: 3"
        );
    }

    #[test]
    fn anything_but_named_fields_is_refused() {
        for template in ["{", "}", "a}b", "{a", "{}", "{a!r}", "{a:.3f}", "{0}", "{a.b}"] {
            assert_eq!(Template::parse(template), None, "{template}");
        }
    }
}
