//! MessagePack, read in place: nothing is copied, and nothing is allocated for what is announced.
//!
//! A container's elements follow it as values of their own. Depth costs nothing: there is no recursion.

use rmp::Marker;

/// One value, without what is in it if it is a container.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value<'a> {
    Nil,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    /// Said to be text; whether it is one is not checked.
    Text(&'a [u8]),
    Binary(&'a [u8]),
    Array(u32),
    Map(u32),
    Extension,
}

impl<'a> Value<'a> {
    pub(crate) fn text(self) -> Option<&'a str> {
        match self {
            Self::Text(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// A number that is none less than 0; some encoders write whole numbers as floats.
    pub(crate) fn number(self) -> Option<u64> {
        match self {
            Self::Unsigned(number) => Some(number),
            Self::Signed(number) => u64::try_from(number).ok(),
            // 2^53: from there on floats are no longer every whole number.
            Self::Float(number) if (0.0..9_007_199_254_740_992.0).contains(&number) =>
            {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "in range"
                )]
                Some(number as u64)
            }
            _ => None,
        }
    }

    /// How many values are in it.
    fn children(self) -> u64 {
        match self {
            Self::Array(count) => count.into(),
            Self::Map(count) => 2 * u64::from(count),
            _ => 0,
        }
    }
}

/// Reads values one after the other.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next value; `None` if the bytes are truncated or malformed.
    pub(crate) fn value(&mut self) -> Option<Value<'a>> {
        Some(match Marker::from_u8(self.byte()?) {
            Marker::Null => Value::Nil,
            Marker::False => Value::Bool(false),
            Marker::True => Value::Bool(true),
            Marker::FixPos(number) => Value::Unsigned(number.into()),
            Marker::FixNeg(number) => Value::Signed(number.into()),
            Marker::U8 => Value::Unsigned(self.byte()?.into()),
            Marker::U16 => Value::Unsigned(u16::from_be_bytes(self.array()?).into()),
            Marker::U32 => Value::Unsigned(u32::from_be_bytes(self.array()?).into()),
            Marker::U64 => Value::Unsigned(u64::from_be_bytes(self.array()?)),
            Marker::I8 => Value::Signed(i8::from_be_bytes(self.array()?).into()),
            Marker::I16 => Value::Signed(i16::from_be_bytes(self.array()?).into()),
            Marker::I32 => Value::Signed(i32::from_be_bytes(self.array()?).into()),
            Marker::I64 => Value::Signed(i64::from_be_bytes(self.array()?)),
            Marker::F32 => Value::Float(f32::from_be_bytes(self.array()?).into()),
            Marker::F64 => Value::Float(f64::from_be_bytes(self.array()?)),
            Marker::FixStr(length) => Value::Text(self.take(length.into())?),
            Marker::Str8 => Value::Text(self.sized8()?),
            Marker::Str16 => Value::Text(self.sized16()?),
            Marker::Str32 => Value::Text(self.sized32()?),
            Marker::Bin8 => Value::Binary(self.sized8()?),
            Marker::Bin16 => Value::Binary(self.sized16()?),
            Marker::Bin32 => Value::Binary(self.sized32()?),
            Marker::FixArray(count) => Value::Array(count.into()),
            Marker::Array16 => Value::Array(u16::from_be_bytes(self.array()?).into()),
            Marker::Array32 => Value::Array(u32::from_be_bytes(self.array()?)),
            Marker::FixMap(count) => Value::Map(count.into()),
            Marker::Map16 => Value::Map(u16::from_be_bytes(self.array()?).into()),
            Marker::Map32 => Value::Map(u32::from_be_bytes(self.array()?)),
            Marker::FixExt1 => self.extension(1)?,
            Marker::FixExt2 => self.extension(2)?,
            Marker::FixExt4 => self.extension(4)?,
            Marker::FixExt8 => self.extension(8)?,
            Marker::FixExt16 => self.extension(16)?,
            Marker::Ext8 => {
                let length = self.byte()?.into();
                self.extension(length)?
            }
            Marker::Ext16 => {
                let length = u16::from_be_bytes(self.array()?).into();
                self.extension(length)?
            }
            Marker::Ext32 => {
                let length = u32::from_be_bytes(self.array()?);
                self.extension(length)?
            }
            Marker::Reserved => return None,
        })
    }

    /// The next value with all that is in it: the value, and the bytes of the whole.
    pub(crate) fn whole(&mut self) -> Option<(Value<'a>, &'a [u8])> {
        let begin = self.bytes;
        let first = self.value()?;
        let mut left = first.children();
        while left > 0 {
            // Each value has at least one byte, so an announced number costs no time either.
            left = left - 1 + self.value()?.children();
        }
        Some((first, begin.get(..begin.len() - self.bytes.len())?))
    }

    /// A map's entries whose keys are texts, each value with all that is in it. Other keys are
    /// passed over. `visit` sees repeated keys again.
    pub(crate) fn entries(
        &mut self,
        mut visit: impl FnMut(&'a str, Value<'a>, &'a [u8]),
    ) -> Option<()> {
        let Value::Map(count) = self.value()? else {
            return None;
        };
        for _ in 0..count {
            let (key, _) = self.whole()?;
            let (value, bytes) = self.whole()?;
            if let Some(key) = key.text() {
                visit(key, value, bytes);
            }
        }
        Some(())
    }

    fn extension(&mut self, length: u32) -> Option<Value<'a>> {
        self.byte()?;
        self.take(length)?;
        Some(Value::Extension)
    }

    fn sized8(&mut self) -> Option<&'a [u8]> {
        let length = self.byte()?;
        self.take(length.into())
    }

    fn sized16(&mut self) -> Option<&'a [u8]> {
        let length = u16::from_be_bytes(self.array()?);
        self.take(length.into())
    }

    fn sized32(&mut self) -> Option<&'a [u8]> {
        let length = u32::from_be_bytes(self.array()?);
        self.take(length)
    }

    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(first)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.bytes.split_first_chunk()?;
        self.bytes = rest;
        Some(*first)
    }

    fn take(&mut self, length: u32) -> Option<&'a [u8]> {
        let (first, rest) = self.bytes.split_at_checked(usize::try_from(length).ok()?)?;
        self.bytes = rest;
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_value_is_skipped_with_its_content() {
        // [{"a": [1, nil]}, ext], true
        let bytes = [0x92, 0x81, 0xa1, b'a', 0x92, 1, 0xc0, 0xd4, 0, 0, 0xc3];
        let mut reader = Reader::new(&bytes);

        assert_eq!(reader.whole(), Some((Value::Array(2), &bytes[..10])));
        assert_eq!(reader.value(), Some(Value::Bool(true)));
        assert!(reader.is_at_end());
    }

    #[test]
    fn a_deeply_nested_value_is_read_without_recursion() {
        let mut bytes = vec![0x91; 1 << 20];
        bytes.push(0xc0);

        assert!(Reader::new(&bytes).whole().is_some());
    }

    #[test]
    fn an_announced_size_allocates_no_memory() {
        assert_eq!(Reader::new(&[0xdd, 255, 255, 255, 255, 1]).whole(), None);
        assert_eq!(Reader::new(&[0xdf, 255, 255, 255, 255, 1]).whole(), None);
        assert_eq!(Reader::new(&[0xc6, 255, 255, 255, 255, 1]).whole(), None);
        assert_eq!(Reader::new(&[0xdb, 255, 255, 255, 255, 1]).whole(), None);
    }

    #[test]
    fn numbers_are_read_from_every_encoding() {
        assert_eq!(Value::Float(1_700_000_000_000.0).number(), Some(1_700_000_000_000));
        assert_eq!(Value::Signed(5).number(), Some(5));
        assert_eq!(Value::Signed(-5).number(), None);
        assert_eq!(Value::Float(f64::NAN).number(), None);
        assert_eq!(Value::Float(-1.0).number(), None);
    }

    proptest! {
        #[test]
        fn decoding_of_any_bytes_terminates(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let mut reader = Reader::new(&bytes);
            while let Some((_, whole)) = reader.whole() {
                prop_assert!(!whole.is_empty());
            }
        }
    }
}
