//! A netlink socket.
//!
//! It belongs to the namespace of the thread that opened it, and works from any thread. So a namespace need
//! not be entered again once it has a socket.
//!
//! The kernel handles a request during `send`: the reply can be received at once.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

use super::message::HEADER;
use super::{Message, Reader};
use crate::sys;

/// The largest datagram that the kernel sends.
const DATAGRAM: usize = 32 << 10;

/// A netlink socket of one network namespace.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

/// The kernel's reply to a rejected request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetlinkError {
    /// The error number.
    pub errno: Errno,
    /// The kernel's explanation (extended acknowledgement), if there is one.
    pub extack: Option<String>,
    /// The index of the rejected request among those that were sent together.
    pub(crate) index: usize,
}

impl fmt::Display for NetlinkError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.extack {
            Some(extack) => write!(formatter, "{} ({extack})", self.errno.desc()),
            None => formatter.write_str(self.errno.desc()),
        }
    }
}

impl std::error::Error for NetlinkError {}

impl From<Errno> for NetlinkError {
    fn from(errno: Errno) -> Self {
        Self { errno, extack: None, index: 0 }
    }
}

impl Socket {
    /// A socket for links, addresses, routes and queues.
    pub(crate) fn route() -> io::Result<Self> {
        Self::open(SockProtocol::NetlinkRoute)
    }

    /// A socket for rules, connections and the packet log.
    pub(crate) fn netfilter() -> io::Result<Self> {
        Self::open(SockProtocol::NetlinkNetFilter)
    }

    fn open(protocol: SockProtocol) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        sys::set_netlink_options(&fd)?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Sends requests one by one, up to the first that is rejected.
    pub(crate) fn request(&mut self, messages: &[Message]) -> Result<(), NetlinkError> {
        for (index, message) in messages.iter().enumerate() {
            let sequences = self.send(&[message.clone().acknowledged()])?;
            self.receive(sequences, sequences.last)
                .map_err(|error| NetlinkError { index, ..error })?;
        }
        Ok(())
    }

    /// Sends a batch, which takes effect as a whole.
    pub(crate) fn transact(&mut self, messages: &[Message]) -> Result<(), NetlinkError> {
        let Some((last, others)) = messages.split_last() else {
            return Ok(());
        };
        let mut batch = vec![Message::batch(libc::NFNL_MSG_BATCH_BEGIN)];
        batch.extend_from_slice(others);
        // The others have replies only if they are rejected, which keeps the receive queue short.
        batch.push(last.clone().acknowledged());
        batch.push(Message::batch(libc::NFNL_MSG_BATCH_END));
        let sequences = self.send(&batch)?;
        let acknowledged = sequences.last.wrapping_sub(1);
        self.receive(sequences, acknowledged).map(drop).map_err(|error| {
            // The first message of the batch is its begin marker.
            NetlinkError { index: error.index.saturating_sub(1), ..error }
        })
    }

    /// Requests a dump. If the kernel's data changed during the dump, requests it again.
    pub(crate) fn list(&mut self, message: &Message) -> Result<Vec<Reply>, NetlinkError> {
        const TRIES: usize = 16;
        for _ in 0..TRIES {
            let sequences = self.send(&[message.clone().acknowledged()])?;
            match self.receive(sequences, sequences.last) {
                Err(error) if error.errno == Errno::EINTR => {}
                other => return other,
            }
        }
        Err(Errno::EBUSY.into())
    }

    /// Received messages that are not replies.
    pub(crate) fn notifications(&self) -> Vec<Reply> {
        let mut notifications = Vec::new();
        let mut buffer = vec![0; DATAGRAM];
        while let Ok(count) = recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            let mut rest = buffer.get(..count).unwrap_or_default();
            while let Some(notification) = ReplyMessage::take(&mut rest) {
                if i32::from(notification.kind) >= libc::NLMSG_MIN_TYPE {
                    notifications.push(Reply { body: notification.body.to_vec() });
                }
            }
        }
        notifications
    }

    fn send(&mut self, messages: &[Message]) -> Result<Sequences, NetlinkError> {
        // Discard late replies to an earlier request that failed.
        while recv(self.fd.as_raw_fd(), &mut [0], MsgFlags::empty()).is_ok() {}
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        for message in messages {
            self.sequence = self.sequence.wrapping_add(1);
            message.append_to(&mut bytes, self.sequence);
        }
        sendto(self.fd.as_raw_fd(), &bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        Ok(Sequences { first, last: self.sequence })
    }

    /// Receives replies until `last` is acknowledged or a request is rejected.
    fn receive(&self, ours: Sequences, last: u32) -> Result<Vec<Reply>, NetlinkError> {
        let mut entries = Vec::new();
        let mut was_interrupted = false;
        let mut buffer = vec![0; DATAGRAM];
        loop {
            let count = recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC)?;
            // With MSG_TRUNC the count is the full length, even if that exceeds the buffer.
            let Some(mut rest) = buffer.get(..count) else { return Err(Errno::EMSGSIZE.into()) };
            while let Some(answer) = ReplyMessage::take(&mut rest) {
                was_interrupted |= answer.flags & libc::NLM_F_DUMP_INTR as u16 != 0;
                match answer.kind.into() {
                    // The end of a dump may carry an error.
                    libc::NLMSG_ERROR | libc::NLMSG_DONE => {
                        if let Some(error) = answer.error(ours.first) {
                            return Err(error);
                        }
                    }
                    libc::NLMSG_NOOP => {}
                    _ => {
                        entries.push(Reply { body: answer.body.to_vec() });
                        continue;
                    }
                }
                if answer.sequence == last {
                    let interrupted = Err(Errno::EINTR.into());
                    return if was_interrupted { interrupted } else { Ok(entries) };
                }
            }
        }
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// The sequence numbers of requests that were sent together.
#[derive(Debug, Clone, Copy)]
struct Sequences {
    first: u32,
    last: u32,
}

/// The body of a reply.
#[derive(Debug)]
pub(crate) struct Reply {
    body: Vec<u8>,
}

impl Reply {
    /// Splits it into the family's header of this length and the attributes.
    pub(crate) fn split(&self, length: usize) -> Option<(&[u8], Reader<'_>)> {
        let (header, attributes) = self.body.split_at_checked(length)?;
        Some((header, Reader::new(attributes)))
    }
}

struct ReplyMessage<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

impl<'a> ReplyMessage<'a> {
    fn take(bytes: &mut &'a [u8]) -> Option<Self> {
        let (header, _) = bytes.split_at_checked(HEADER)?;
        let u16_at = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let u32_at = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|i| header[at + i]));
        let length = u32_at(0) as usize;
        let body = bytes.get(HEADER..length)?;
        *bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Self { kind: u16_at(4), flags: u16_at(6), sequence: u32_at(8), body })
    }

    /// The error in a message of the type `NLMSG_ERROR` or `NLMSG_DONE`; `None` on success.
    fn error(&self, first: u32) -> Option<NetlinkError> {
        let code = i32::from_ne_bytes(self.body.first_chunk().copied()?);
        if code == 0 {
            return None;
        }
        let has_words = self.flags & libc::NLM_F_ACK_TLVS as u16 != 0;
        // The code is followed by the header of the rejected request, without its body.
        let extack = self.body.get(4 + HEADER..).filter(|_| has_words);
        let extack = extack.and_then(|bytes| Reader::new(bytes).text(sys::NLMSGERR_ATTR_MSG));
        Some(NetlinkError {
            errno: Errno::from_raw(-code),
            extack: extack.map(str::to_owned),
            index: self.sequence.wrapping_sub(first) as usize,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_the_errno_and_text_of_the_kernel() {
        let mut socket = Socket::route().unwrap();
        // A request for a link without a name or index is invalid.
        let message = Message::new(libc::RTM_GETLINK, 0, &[0; 16]);
        let error = socket.request(&[message]).unwrap_err();
        assert_eq!(error.errno, Errno::EINVAL);
        assert!(!error.to_string().is_empty());
    }

    #[test]
    fn a_dump_is_complete() {
        let mut socket = Socket::route().unwrap();
        let message = Message::new(libc::RTM_GETLINK, libc::NLM_F_DUMP, &[0; 16]);
        let entries = socket.list(&message).unwrap();
        let names: Vec<_> = entries
            .iter()
            .filter_map(|entry| Some(entry.split(16)?.1.text(libc::IFLA_IFNAME)?.to_owned()))
            .collect();
        assert!(names.contains(&"lo".to_owned()), "{names:?}");
    }

    #[test]
    fn a_rejected_dump_is_an_error() {
        let mut socket = Socket::route().unwrap();
        // No link has this type, and the kernel rejects such a header.
        let mut header = [0; 16];
        header[2] = 1;
        let message = Message::new(libc::RTM_GETLINK, libc::NLM_F_DUMP, &header);
        assert_eq!(socket.list(&message).unwrap_err().errno, Errno::EINVAL);
    }

    #[test]
    fn a_truncated_reply_is_ignored() {
        let mut bytes: &[u8] = &[40, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(ReplyMessage::take(&mut bytes).is_none());
    }
}
