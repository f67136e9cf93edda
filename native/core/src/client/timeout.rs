//! `grpc-timeout`: the time that is left, as the wire says it.

use std::time::Duration;

/// Most digits that the protocol allows: eight.
const MAX: u128 = 99_999_999;
const EXACT: [(u128, char); 4] = [(1_000_000_000, 'S'), (1_000_000, 'm'), (1_000, 'u'), (1, 'n')];
const LONG: [(u128, char); 2] = [(60_000_000_000, 'M'), (3_600_000_000_000, 'H')];

/// Rounded up by less than 1%: then the calls of one client say the same in the same few bytes, which HPACK finds in its
/// table. Nothing hangs on it, as the caller keeps the true deadline.
pub(super) fn encode(left: Duration) -> String {
    let exact = left.as_nanos().max(1);
    let mut coarse = 1;
    while exact / coarse >= 1000 {
        coarse *= 10;
    }
    let rounded = exact.div_ceil(coarse) * coarse;
    let whole = EXACT.iter().find(|(unit, _)| rounded.is_multiple_of(*unit));
    for (unit, letter) in whole.into_iter().chain(&LONG) {
        let number = rounded.div_ceil(*unit);
        if number <= MAX {
            return format!("{number}{letter}");
        }
    }
    format!("{MAX}H")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nanoseconds(text: &str) -> u128 {
        let (digits, letter) = text.split_at(text.len() - 1);
        let unit = EXACT
            .iter()
            .chain(&LONG)
            .find(|(_, its)| letter == its.to_string())
            .unwrap()
            .0;
        assert!(digits.len() <= 8, "{text}");
        digits.parse::<u128>().unwrap() * unit
    }

    #[test]
    fn equal_timeouts_less_what_has_passed_are_the_same() {
        assert_eq!(encode(Duration::from_secs(1)), "1S");
        assert_eq!(encode(Duration::from_micros(999_973)), "1S");
        assert_eq!(encode(Duration::from_micros(49_987)), "50m");
        assert_eq!(encode(Duration::from_nanos(0)), "1n");
        assert_eq!(encode(Duration::MAX), "99999999H");
    }

    proptest! {
        #[test]
        fn it_is_never_shorter_and_hardly_longer(seconds in 0u64..10_000_000_000, nanos in 0u32..1_000_000_000) {
            let left = Duration::new(seconds, nanos);
            let said = nanoseconds(&encode(left));
            let exact = left.as_nanos().max(1);
            prop_assert!(said >= exact);
            // By whole hours only where a number of minutes has too many digits.
            prop_assert!(said <= exact + exact / 90 + 1);
        }
    }
}
