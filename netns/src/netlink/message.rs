//! One request to the kernel: a header, the family's own header, attributes.

use super::Attributes;

/// A request that is yet to get its sequence number.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

/// The length of the common header.
pub(super) const HEADER: usize = 16;

impl Message {
    /// A request of a kind, with the family's header.
    pub(crate) fn new(kind: u16, flags: i32, header: &[u8]) -> Self {
        Self { kind, flags: libc::NLM_F_REQUEST as u16 | flags as u16, body: header.to_vec() }
    }

    /// A request to nf_tables or connection tracking: they have a header in common.
    pub(crate) fn netfilter(subsystem: i32, kind: u16, flags: i32, family: u8) -> Self {
        Self::new((subsystem as u16) << 8 | kind, flags, &[family, 0, 0, 0])
    }

    /// The opening or closing of a batch, all of which takes effect or nothing of it.
    pub(crate) fn batch(kind: i32) -> Self {
        let [high, low] = (libc::NFNL_SUBSYS_NFTABLES as u16).to_be_bytes();
        Self::new(kind as u16, 0, &[0, 0, high, low])
    }

    /// The attributes after the headers.
    pub(crate) fn with(mut self, attributes: &Attributes) -> Self {
        self.body.extend(attributes.as_bytes());
        self
    }

    /// To be answered even if all is well.
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
        // To the kernel, from whoever the kernel says.
        bytes.extend([0; 4]);
        bytes.extend(&self.body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
}
