//! Protobuf's wire format, written: fields that hold their default are left out.

/// A message, or a part of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn with_capacity(size: usize) -> Self {
        Self(Vec::with_capacity(size))
    }

    pub(crate) fn varint(&mut self, mut number: u64) {
        while number > 0x7F {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    /// The key and length of a field whose bytes the caller adds.
    pub(crate) fn head(&mut self, number: u32, size: usize) {
        self.varint(u64::from(number << 3 | 2));
        self.varint(size as u64);
    }

    /// A field of bytes, text or a message, also where it is empty.
    pub(crate) fn bytes_always(&mut self, number: u32, bytes: &[u8]) {
        self.head(number, bytes.len());
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn bytes(&mut self, number: u32, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.bytes_always(number, bytes);
        }
    }

    pub(crate) fn text(&mut self, number: u32, text: &str) {
        self.bytes(number, text.as_bytes());
    }

    /// An integer or enum, also where it is zero.
    pub(crate) fn integer_always(&mut self, number: u32, integer: u64) {
        self.varint(u64::from(number << 3));
        self.varint(integer);
    }

    pub(crate) fn integer(&mut self, number: u32, integer: u64) {
        if integer != 0 {
            self.integer_always(number, integer);
        }
    }

    pub(crate) fn float(&mut self, number: u32, float: f32) {
        if float.to_bits() != 0 {
            self.varint(u64::from(number << 3 | 5));
            self.0.extend_from_slice(&float.to_le_bytes());
        }
    }

    /// A field that is a message, also where it is empty.
    pub(crate) fn message(&mut self, number: u32, write: impl FnOnce(&mut Self)) {
        let mut part = Self::default();
        write(&mut part);
        self.bytes_always(number, &part.0);
    }
}
