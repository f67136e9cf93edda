//! Elements of tensors as numbers: the names and sizes of datatypes, and float64 of each of them.

use crate::plan::Datatype;

impl Datatype {
    /// The name in the Open Inference Protocol.
    pub fn label(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bytes => "BYTES",
        }
    }

    /// The size of an element in bytes; None where they differ.
    pub fn size(self) -> Option<usize> {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => Some(1),
            Self::Uint16 | Self::Int16 | Self::Fp16 => Some(2),
            Self::Uint32 | Self::Int32 | Self::Fp32 => Some(4),
            Self::Uint64 | Self::Int64 | Self::Fp64 => Some(8),
            Self::Bytes => None,
        }
    }

    /// Whether there are infinities and NaN among its values.
    pub fn is_float(self) -> bool {
        matches!(self, Self::Fp16 | Self::Fp32 | Self::Fp64)
    }
}

/// Evaluates `$body` with `$numbers` an iterator over little-endian elements as float64, apart for each datatype.
/// BYTES has no numbers.
macro_rules! with_numbers {
    ($datatype:expr, $data:expr, $numbers:ident => $body:expr) => {{
        use $crate::plan::Datatype as D;
        macro_rules! of {
            ($bytes:ty, $float:expr) => {{
                let $numbers = $data
                    .as_chunks::<{ size_of::<$bytes>() }>()
                    .0
                    .iter()
                    .map($float);
                $body
            }};
            ($number:ty) => {
                of!($number, |bytes| <$number>::from_le_bytes(*bytes) as f64)
            };
        }
        match $datatype {
            D::Bool | D::Uint8 => of!(u8),
            D::Uint16 => of!(u16),
            D::Uint32 => of!(u32),
            D::Uint64 => of!(u64),
            D::Int8 => of!(i8),
            D::Int16 => of!(i16),
            D::Int32 => of!(i32),
            D::Int64 => of!(i64),
            D::Fp16 => of!(u16, |bytes| $crate::numbers::half_to_float(u16::from_le_bytes(
                *bytes
            ))),
            D::Fp32 => of!(f32),
            D::Fp64 => of!(f64),
            D::Bytes => {
                let $numbers = std::iter::empty::<f64>();
                $body
            }
        }
    }};
}
pub(crate) use with_numbers;

/// The element at a place, which must be one.
pub fn number_at(datatype: Datatype, data: &[u8], index: usize) -> f64 {
    let size = datatype.size().unwrap_or_default();
    let element = data.get(index * size..(index + 1) * size).unwrap_or_default();
    with_numbers!(datatype, element, numbers => { numbers }.next().unwrap_or(f64::NAN))
}

/// Writes a number over the element at a place, which must be one; integers lose what is behind the point.
pub fn put_number(datatype: Datatype, data: &mut [u8], index: usize, number: f64) {
    let size = datatype.size().unwrap_or_default();
    let Some(element) = data.get_mut(index * size..(index + 1) * size) else {
        return;
    };
    match datatype {
        Datatype::Bool => element.copy_from_slice(&[u8::from(number != 0.0)]),
        Datatype::Uint8 => element.copy_from_slice(&(number as u8).to_le_bytes()),
        Datatype::Uint16 => element.copy_from_slice(&(number as u16).to_le_bytes()),
        Datatype::Uint32 => element.copy_from_slice(&(number as u32).to_le_bytes()),
        Datatype::Uint64 => element.copy_from_slice(&(number as u64).to_le_bytes()),
        Datatype::Int8 => element.copy_from_slice(&(number as i8).to_le_bytes()),
        Datatype::Int16 => element.copy_from_slice(&(number as i16).to_le_bytes()),
        Datatype::Int32 => element.copy_from_slice(&(number as i32).to_le_bytes()),
        Datatype::Int64 => element.copy_from_slice(&(number as i64).to_le_bytes()),
        Datatype::Fp16 => element.copy_from_slice(&half_from_float(number).to_le_bytes()),
        Datatype::Fp32 => element.copy_from_slice(&(number as f32).to_le_bytes()),
        Datatype::Fp64 => element.copy_from_slice(&number.to_le_bytes()),
        Datatype::Bytes => {}
    }
}

/// The value of an IEEE 754 binary16.
pub fn half_to_float(half: u16) -> f64 {
    let sign = if half & 0x8000 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from(half >> 10 & 0x1F), f64::from(half & 0x3FF));
    sign * match exponent {
        0 => fraction * 2.0_f64.powi(-24),
        0x1F if fraction == 0.0 => f64::INFINITY,
        0x1F => f64::NAN,
        _ => (1024.0 + fraction) * 2.0_f64.powi(exponent - 25),
    }
}

/// The binary16 of a value that has one; of another, the next towards zero.
pub fn half_from_float(number: f64) -> u16 {
    let sign = if number.is_sign_negative() { 0x8000 } else { 0 };
    let size = number.abs();
    // The order of sizes is that of their bits, infinity last.
    let (mut low, mut high) = (0_u16, 0x7C01);
    while high - low > 1 {
        let middle = low.midpoint(high);
        if half_to_float(middle) <= size {
            low = middle
        } else {
            high = middle
        }
    }
    if number.is_nan() { 0x7E00 } else { sign | low }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_goes_to_float_and_back() {
        for half in 0..=u16::MAX {
            let float = half_to_float(half);
            assert!(half_from_float(float) == half || float.is_nan(), "{half:#x}");
        }
        let known = [
            (0x3C00, 1.0),
            (0xC000, -2.0),
            (0x7BFF, 65504.0),
            (1, 2.0_f64.powi(-24)),
            (0x3555, 0.333251953125),
        ];
        for (half, float) in known {
            assert_eq!(half_to_float(half), float);
        }
        assert_eq!(half_to_float(0xFC00), f64::NEG_INFINITY);
    }

    #[test]
    fn numbers_are_written_where_they_are_read() {
        let all = [
            Datatype::Uint8,
            Datatype::Uint16,
            Datatype::Uint32,
            Datatype::Uint64,
            Datatype::Int8,
            Datatype::Int16,
            Datatype::Int32,
            Datatype::Int64,
            Datatype::Fp16,
            Datatype::Fp32,
            Datatype::Fp64,
        ];
        for datatype in all {
            let size = datatype.size().unwrap();
            let mut data = vec![0; size * 3];
            put_number(datatype, &mut data, 1, 100.0);
            assert_eq!(
                [0, 1, 2].map(|index| number_at(datatype, &data, index)),
                [0.0, 100.0, 0.0],
                "{datatype:?}"
            );
        }
        assert!(number_at(Datatype::Fp32, &[], 0).is_nan());
    }
}
