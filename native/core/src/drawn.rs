//! Ids for requests that have none: unique to a worker's life, and made without an allocation.

/// Digits of a worker's own part, a hyphen, and those of the largest number.
const SIZE: usize = 12 + 1 + 16;

/// Draws the ids of one worker.
#[derive(Debug)]
pub struct Draw {
    boot: u64,
    next: u64,
}

/// One id, such as `5f1d0c2ab39e-1a`.
#[derive(Clone, Copy, Debug)]
pub struct Drawn {
    text: [u8; SIZE],
    size: usize,
}

impl Draw {
    /// Begins anew; of `boot` 48 bits are used, which nobody else should have.
    pub fn new(boot: u64) -> Self {
        Self {
            boot: boot & 0xffff_ffff_ffff,
            next: 1,
        }
    }

    /// The next id.
    pub fn draw(&mut self) -> Drawn {
        let mut drawn = Drawn {
            text: [b'-'; SIZE],
            size: 13,
        };
        for place in 0..12 {
            drawn.text[place] = digit(self.boot >> (44 - 4 * place));
        }
        let digits = (64 - (self.next | 1).leading_zeros()).div_ceil(4);
        for place in (0..digits).rev() {
            drawn.text[drawn.size] = digit(self.next >> (4 * place));
            drawn.size += 1;
        }
        self.next = self.next.wrapping_add(1);
        drawn
    }
}

impl Drawn {
    /// The id.
    pub fn as_str(&self) -> &str {
        // Digits and a hyphen.
        std::str::from_utf8(&self.text[..self.size]).unwrap_or_default()
    }
}

fn digit(number: u64) -> u8 {
    b"0123456789abcdef"[(number & 15) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_as_formatted() {
        let mut draw = Draw::new(0xfff0_1234_5678_9abc);
        for number in 1..300_u64 {
            assert_eq!(draw.draw().as_str(), format!("123456789abc-{number:x}"));
        }
        draw.next = u64::MAX;
        assert_eq!(draw.draw().as_str(), "123456789abc-ffffffffffffffff");
    }
}
