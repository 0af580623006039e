//! Netlink attributes: length, type, value, padded to four bytes. A value may be attributes again.

use std::ffi::CStr;

const HEADER: usize = 4;
/// Upper bits of the type: the value is nested, or in network byte order.
const NESTED: u16 = libc::NLA_F_NESTED as u16;
const KIND: u16 = libc::NLA_TYPE_MASK as u16;

/// A list of attributes to send.
#[derive(Debug, Default, Clone)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// An attribute with any value.
    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = HEADER + value.len();
        // No value of ours exceeds 64 KiB; the kernel would reject a wrong length.
        self.0.extend((length as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// A number in host byte order.
    pub(crate) fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// A number in host byte order.
    pub(crate) fn u64(self, kind: u16, value: u64) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// A number in network byte order, as in nf_tables.
    pub(crate) fn be32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// A number in network byte order.
    pub(crate) fn be64(self, kind: u16, value: u64) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// A text with a terminating zero.
    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), b"\0"].concat())
    }

    /// Nested attributes.
    pub(crate) fn nest(self, kind: u16, value: &Self) -> Self {
        self.bytes(kind | NESTED, &value.0)
    }

    /// Nested attributes, as received from the kernel.
    pub(crate) fn nest_bytes(self, kind: u16, value: &[u8]) -> Self {
        self.bytes(kind | NESTED, value)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Reads attributes up to the first malformed one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The value of the first attribute of this type.
    pub(crate) fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.into_iter().find_map(|(found, value)| (found == kind).then_some(value))
    }

    /// The nested attributes of the first attribute of this type.
    pub(crate) fn nested(self, kind: u16) -> Option<Reader<'a>> {
        self.get(kind).map(Reader)
    }

    pub(crate) fn u32(self, kind: u16) -> Option<u32> {
        Some(u32::from_ne_bytes(self.get(kind)?.try_into().ok()?))
    }

    pub(crate) fn be32(self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.get(kind)?.try_into().ok()?))
    }

    pub(crate) fn be64(self, kind: u16) -> Option<u64> {
        Some(u64::from_be_bytes(self.get(kind)?.try_into().ok()?))
    }

    pub(crate) fn text(self, kind: u16) -> Option<&'a str> {
        CStr::from_bytes_until_nul(self.get(kind)?).ok()?.to_str().ok()
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (header, _) = self.0.split_at_checked(HEADER)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & KIND;
        let value = self.0.get(HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_were_written() {
        let inner = Attributes::new().text(1, "veth").be32(2, 7);
        let outer = Attributes::new().u32(3, 9).nest(4, &inner).bytes(5, &[1]);
        let reader = Reader::new(outer.as_bytes());
        assert_eq!(reader.u32(3), Some(9));
        assert_eq!(reader.get(5), Some(&[1][..]));
        let nested = reader.nested(4).unwrap();
        assert_eq!((nested.text(1), nested.be32(2)), (Some("veth"), Some(7)));
        assert_eq!(outer.as_bytes().len() % 4, 0);
    }

    #[test]
    fn reading_ends_at_a_truncated_attribute() {
        let whole = Attributes::new().u32(1, 1).u32(2, 2);
        for length in 0..whole.as_bytes().len() {
            let reader = Reader::new(&whole.as_bytes()[..length]);
            assert_eq!(reader.count(), length / 8);
        }
        // An attribute shorter than its header would not advance the reader.
        assert_eq!(Reader::new(&[0, 0, 1, 0, 9, 9, 9, 9]).count(), 0);
    }
}
