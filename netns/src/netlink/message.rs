//! A netlink request: the common header, the family's header, attributes.

use super::Attributes;

/// A request without its sequence number.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

/// The length of the common header.
pub(super) const HEADER: usize = 16;

impl Message {
    /// A request of this type, with the family's header.
    pub(crate) fn new(kind: u16, flags: i32, header: &[u8]) -> Self {
        Self { kind, flags: libc::NLM_F_REQUEST as u16 | flags as u16, body: header.to_vec() }
    }

    /// A request to nf_tables, connection tracking or the packet log, which share a header.
    pub(crate) fn netfilter(subsystem: i32, kind: u16, flags: i32, family: u8) -> Self {
        Self::new((subsystem as u16) << 8 | kind, flags, &[family, 0, 0, 0])
    }

    /// The beginning or the end of a batch, which takes effect as a whole.
    pub(crate) fn batch(kind: i32) -> Self {
        let [high, low] = (libc::NFNL_SUBSYS_NFTABLES as u16).to_be_bytes();
        Self::new(kind as u16, 0, &[0, 0, high, low])
    }

    /// Appends attributes.
    pub(crate) fn with(mut self, attributes: &Attributes) -> Self {
        self.body.extend(attributes.as_bytes());
        self
    }

    /// Requests a reply also on success.
    pub(crate) fn acknowledged(mut self) -> Self {
        self.flags |= libc::NLM_F_ACK as u16;
        self
    }

    pub(super) fn append_to(&self, bytes: &mut Vec<u8>, sequence: u32) {
        let length = (HEADER + self.body.len()) as u32;
        bytes.extend(length.to_ne_bytes());
        bytes.extend(self.kind.to_ne_bytes());
        bytes.extend(self.flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        // The port ID 0: the kernel fills in the sender's.
        bytes.extend([0; 4]);
        bytes.extend(&self.body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
}
