//! Facts in texts, printed as Python prints them.

use std::fmt::Write;

const MAX_FACT_CHARACTERS: usize = 1000;

/// One fact of a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fact<'a> {
    /// As it is, but for control characters, which become `?`.
    Text(&'a str),
    /// A whole number.
    Int(i128),
    /// The shortest decimal that reads back as it.
    Float(f64),
    /// `[1, 3]`.
    Ints(&'a [i64]),
}

impl<'a> From<&'a str> for Fact<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a String> for Fact<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a Vec<i64>> for Fact<'a> {
    fn from(numbers: &'a Vec<i64>) -> Self {
        Self::Ints(numbers)
    }
}

impl<'a> From<&'a [i64]> for Fact<'a> {
    fn from(numbers: &'a [i64]) -> Self {
        Self::Ints(numbers)
    }
}

impl From<f64> for Fact<'_> {
    fn from(number: f64) -> Self {
        Self::Float(number)
    }
}

macro_rules! from_integers {
    ($($integer:ty),*) => {$(
        impl From<$integer> for Fact<'_> {
            fn from(number: $integer) -> Self {
                Self::Int(number.into())
            }
        }
    )*};
}
from_integers!(i32, i64, u32, u64, i128);

impl From<usize> for Fact<'_> {
    fn from(number: usize) -> Self {
        Self::Int(number as i128)
    }
}

impl Fact<'_> {
    pub(super) fn write(&self, text: &mut String) {
        let written = match self {
            Self::Text(fact) => {
                // Cut first: a client decides how long its names are.
                let plain = |character: char| if character.is_control() { '?' } else { character };
                text.extend(fact.chars().take(MAX_FACT_CHARACTERS).map(plain));
                Ok(())
            }
            Self::Int(number) => write!(text, "{number}"),
            Self::Float(number) => {
                text.push_str(&float(*number));
                Ok(())
            }
            Self::Ints(numbers) => write!(text, "{numbers:?}"),
        };
        debug_assert!(written.is_ok(), "writing to a string does not fail");
    }
}

/// The text, cut to at most `size` bytes: a status that is too long for gRPC is lost with its reason.
pub fn bounded(text: &str, size: usize) -> String {
    if text.len() <= size {
        return text.to_owned();
    }
    format!("{}...", &text[..text.floor_char_boundary(size.saturating_sub(3))])
}

/// A number rounded to three decimals, half to even on its exact value.
pub fn rounded(number: f64) -> f64 {
    format!("{number:.3}").parse().unwrap_or(number)
}

/// As Python's `repr`: Rust turns to exponents at the same sizes, but writes them without sign and leading zero.
fn float(number: f64) -> String {
    let text = format!("{number:?}");
    if number.is_nan() {
        return "nan".to_owned();
    }
    match text.split_once('e') {
        Some((digits, exponent)) => match exponent.strip_prefix('-') {
            Some(exponent) => format!("{digits}e-{exponent:0>2}"),
            None => format!("{digits}e+{exponent:0>2}"),
        },
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(fact: Fact<'_>) -> String {
        let mut text = String::new();
        fact.write(&mut text);
        text
    }

    #[test]
    fn floats_are_written_as_python_writes_them() {
        let shown = [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1_f32 as f64, "0.10000000149011612"),
            (1e-5, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (0.0001, "0.0001"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (-1.25e100, "-1.25e+100"),
            (5e-324, "5e-324"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (-f64::NAN, "nan"),
        ];
        for (number, text) in shown {
            assert_eq!(written(number.into()), text);
        }
    }

    #[test]
    fn rounding_is_half_to_even_on_the_exact_value() {
        let pairs = [
            (0.0625, 0.062),
            (0.1875, 0.188),
            (2.0005, 2.001),
            (1.0005, 1.0),
            (1e10, 1e10),
            (-0.0004, -0.0),
            (1.23456, 1.235),
        ];
        for (number, expected) in pairs {
            assert_eq!(rounded(number), expected, "{number}");
        }
    }

    #[test]
    fn texts_are_plain_and_lists_are_in_brackets() {
        assert_eq!(written("a\nb\x1b[0m\u{85}'c'\u{e9}".into()), "a?b?[0m?'c'\u{e9}");
        assert_eq!(written((&[1, -1][..]).into()), "[1, -1]");
        assert_eq!(written((&[][..]).into()), "[]");
        assert_eq!(written("x".repeat(2000).as_str().into()).len(), 1000);
    }

    #[test]
    fn a_cut_never_splits_a_character() {
        assert_eq!(bounded("abcdef", 6), "abcdef");
        assert_eq!(bounded("abcdefg", 6), "abc...");
        assert_eq!(bounded("ab\u{e9}\u{e9}\u{e9}", 6), "ab...");
    }
}
