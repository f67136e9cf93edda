//! As much of JSON as a table of texts needs: objects, texts, true, false and null.

use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    Object(BTreeMap<String, Json>),
    Text(String),
    Bool(bool),
    Null,
}

impl Json {
    pub fn parse(text: &str) -> Self {
        let mut rest = text.trim_start();
        value(&mut rest)
    }

    pub fn text(&self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text.clone()),
            _ => None,
        }
    }

    pub fn entries(&self) -> &BTreeMap<String, Json> {
        match self {
            Self::Object(entries) => entries,
            other => panic!("{other:?} is no object"),
        }
    }
}

fn value(rest: &mut &str) -> Json {
    for (word, value) in [
        ("true", Json::Bool(true)),
        ("false", Json::Bool(false)),
        ("null", Json::Null),
    ] {
        if take(rest, word) {
            return value;
        }
    }
    if !take(rest, "{") {
        return Json::Text(text(rest));
    }
    let mut entries = BTreeMap::new();
    while !take(rest, "}") {
        let name = text(rest);
        assert!(take(rest, ":"));
        entries.insert(name, value(rest));
        take(rest, ",");
    }
    Json::Object(entries)
}

fn take(rest: &mut &str, word: &str) -> bool {
    let found = rest.strip_prefix(word);
    *rest = found.unwrap_or(rest).trim_start();
    found.is_some()
}

fn text(rest: &mut &str) -> String {
    let mut characters = rest.strip_prefix('"').unwrap().chars();
    let mut units = Vec::new();
    let mut next = || characters.next().unwrap();
    loop {
        let character = match next() {
            '"' => break,
            '\\' => match next() {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                'b' => '\u{8}',
                'f' => '\u{c}',
                'u' => {
                    let digits: String = (0..4).map(|_| next()).collect();
                    units.push(u16::from_str_radix(&digits, 16).unwrap());
                    continue;
                }
                other => other,
            },
            other => other,
        };
        units.extend(character.encode_utf16(&mut [0; 2]).iter());
    }
    *rest = characters.as_str().trim_start();
    String::from_utf16(&units).unwrap()
}

#[test]
fn texts_with_escapes_are_read() {
    let read = Json::parse(r#" {"a": {"b": "\u20ac\ud83d\ude00\n\"", "c": null}, "d": true} "#);
    assert_eq!(
        read.entries()["a"].entries()["b"].text().as_deref(),
        Some("\u{20ac}\u{1f600}\n\"")
    );
    assert_eq!(read.entries()["d"], Json::Bool(true));
}
