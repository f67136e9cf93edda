//! Findings as JSON, written as Python's `json.dumps` does.

use std::fmt::Write;

use crate::call::{Finding, FindingKind};

impl FindingKind {
    /// The short name.
    pub fn label(self) -> &'static str {
        match self {
            Self::Clipped => "CLIPPED",
            Self::Flagged => "FLAGGED",
            Self::Fallback => "FALLBACK",
            Self::Stale => "STALE",
            Self::Defaulted => "DEFAULTED",
        }
    }
}

/// A list of objects with kind, row, column and rule.
pub(super) fn json(findings: &[Finding]) -> String {
    let mut json = String::from("[");
    for (index, finding) in findings.iter().enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        let (kind, row, column) = (finding.kind.label(), finding.row, finding.column);
        let written = write!(
            json,
            r#"{separator}{{"kind": "{kind}", "row": {row}, "column": {column}, "rule": "#
        );
        debug_assert!(written.is_ok(), "writing to a string does not fail");
        quote(&finding.rule, &mut json);
        json.push('}');
    }
    json.push(']');
    json
}

fn quote(text: &str, json: &mut String) {
    json.push('"');
    for character in text.chars() {
        match character {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            '\u{8}' => json.push_str("\\b"),
            '\u{c}' => json.push_str("\\f"),
            ' '..='~' => json.push(character),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    json.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    json.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_written_as_python_writes_them() {
        let finding = |row, rule: &str| Finding {
            kind: FindingKind::Clipped,
            row,
            column: 2,
            rule: rule.into(),
        };
        assert_eq!(json(&[]), "[]");
        assert_eq!(
            json(&[
                finding(0, "bounds:a"),
                finding(1, "\"\\\n\u{8}\u{1}\u{7f}\u{e9}\u{1f600}~")
            ]),
            r#"[{"kind": "CLIPPED", "row": 0, "column": 2, "rule": "bounds:a"}, "#.to_owned()
                + r#"{"kind": "CLIPPED", "row": 1, "column": 2, "rule": "#
                + r#""\"\\\n\b\u0001\u007f\u00e9\ud83d\ude00~"}]"#
        );
    }
}
