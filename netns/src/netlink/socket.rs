//! A netlink socket.
//!
//! It belongs to the network namespace of the thread that opened it, and may be used from any: so
//! whoever keeps a socket of a namespace need never enter that again.
//!
//! The kernel handles a request while it is being sent: its answer is there when `send` returns.

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

/// The largest datagram that the kernel answers with.
const DATAGRAM: usize = 32 << 10;

/// A netlink socket of one network namespace.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

/// Why the kernel refused a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The error number.
    pub errno: Errno,
    /// The kernel's own words, if it had any.
    pub words: Option<String>,
    /// Which request of several, from 0.
    pub(crate) index: usize,
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.words {
            Some(words) => write!(formatter, "{} ({words})", self.errno.desc()),
            None => formatter.write_str(self.errno.desc()),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self { errno, words: None, index: 0 }
    }
}

impl Socket {
    /// For links, addresses, routes and queues of this thread's namespace.
    pub(crate) fn route() -> io::Result<Self> {
        Self::open(SockProtocol::NetlinkRoute)
    }

    /// For rules and connections of this thread's namespace.
    pub(crate) fn netfilter() -> io::Result<Self> {
        Self::open(SockProtocol::NetlinkNetFilter)
    }

    fn open(protocol: SockProtocol) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        sys::set_netlink_options(&fd)?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Carries out requests, each by itself, up to the first that is refused.
    pub(crate) fn request(&mut self, messages: &[Message]) -> Result<(), Refusal> {
        for (index, message) in messages.iter().enumerate() {
            let sequences = self.send(&[message.clone().acknowledged()])?;
            self.receive(sequences, sequences.last)
                .map_err(|refusal| Refusal { index, ..refusal })?;
        }
        Ok(())
    }

    /// Carries out a batch as one transaction.
    pub(crate) fn transact(&mut self, messages: &[Message]) -> Result<(), Refusal> {
        let Some((last, others)) = messages.split_last() else {
            return Ok(());
        };
        let mut batch = vec![Message::batch(libc::NFNL_MSG_BATCH_BEGIN)];
        batch.extend_from_slice(others);
        // The others answer only if they are refused, which keeps the queue short.
        batch.push(last.clone().acknowledged());
        batch.push(Message::batch(libc::NFNL_MSG_BATCH_END));
        let sequences = self.send(&batch)?;
        let acknowledged = sequences.last.wrapping_sub(1);
        self.receive(sequences, acknowledged).map(drop).map_err(|refusal| {
            // The first of the batch is its opening.
            Refusal { index: refusal.index.saturating_sub(1), ..refusal }
        })
    }

    /// Asks for a list. One that changed while it was read is read again.
    pub(crate) fn list(&mut self, message: &Message) -> Result<Vec<Entry>, Refusal> {
        const TRIES: usize = 16;
        for _ in 0..TRIES {
            let sequences = self.send(&[message.clone().acknowledged()])?;
            match self.receive(sequences, sequences.last) {
                Err(refusal) if refusal.errno == Errno::EINTR => {}
                other => return other,
            }
        }
        Err(Errno::EBUSY.into())
    }

    /// What has come unasked.
    pub(crate) fn notices(&self) -> Vec<Entry> {
        let mut notices = Vec::new();
        let mut buffer = vec![0; DATAGRAM];
        while let Ok(count) = recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            let mut rest = buffer.get(..count).unwrap_or_default();
            while let Some(notice) = Answer::take(&mut rest) {
                if i32::from(notice.kind) >= libc::NLMSG_MIN_TYPE {
                    notices.push(Entry { body: notice.body.to_vec() });
                }
            }
        }
        notices
    }

    fn send(&mut self, messages: &[Message]) -> Result<Sequences, Refusal> {
        // Answers that an earlier failure left must not be taken for ours.
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

    /// Takes answers until `last` is acknowledged or one of ours is refused.
    fn receive(&self, ours: Sequences, last: u32) -> Result<Vec<Entry>, Refusal> {
        let mut entries = Vec::new();
        let mut was_interrupted = false;
        let mut buffer = vec![0; DATAGRAM];
        loop {
            let count = recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC)?;
            // So it says how long an answer is, though it be longer than there is room.
            let Some(mut rest) = buffer.get(..count) else { return Err(Errno::EMSGSIZE.into()) };
            while let Some(answer) = Answer::take(&mut rest) {
                was_interrupted |= answer.flags & libc::NLM_F_DUMP_INTR as u16 != 0;
                match answer.kind.into() {
                    // A list that could not be made ends with the reason.
                    libc::NLMSG_ERROR | libc::NLMSG_DONE => {
                        if let Some(refusal) = answer.refusal(ours.first) {
                            return Err(refusal);
                        }
                    }
                    libc::NLMSG_NOOP => {}
                    _ => {
                        entries.push(Entry { body: answer.body.to_vec() });
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

/// The numbers of the requests that were sent together.
#[derive(Debug, Clone, Copy)]
struct Sequences {
    first: u32,
    last: u32,
}

/// An entry of a list.
#[derive(Debug)]
pub(crate) struct Entry {
    body: Vec<u8>,
}

impl Entry {
    /// The family's header, `length` bytes of it, and the attributes behind.
    pub(crate) fn split(&self, length: usize) -> Option<(&[u8], Reader<'_>)> {
        let (header, attributes) = self.body.split_at_checked(length)?;
        Some((header, Reader::new(attributes)))
    }
}

struct Answer<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

impl<'a> Answer<'a> {
    fn take(bytes: &mut &'a [u8]) -> Option<Self> {
        let (header, _) = bytes.split_at_checked(HEADER)?;
        let u16_at = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let u32_at = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|i| header[at + i]));
        let length = u32_at(0) as usize;
        let body = bytes.get(HEADER..length)?;
        *bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Self { kind: u16_at(4), flags: u16_at(6), sequence: u32_at(8), body })
    }

    /// What an answer of the kind "error" says, unless that all is well.
    fn refusal(&self, first: u32) -> Option<Refusal> {
        let code = i32::from_ne_bytes(self.body.first_chunk().copied()?);
        if code == 0 {
            return None;
        }
        let has_words = self.flags & libc::NLM_F_ACK_TLVS as u16 != 0;
        // After the code comes the header of what was refused, and nothing more of that.
        let words = self.body.get(4 + HEADER..).filter(|_| has_words);
        let words = words.and_then(|bytes| Reader::new(bytes).text(sys::NLMSGERR_ATTR_MSG));
        Some(Refusal {
            errno: Errno::from_raw(-code),
            words: words.map(str::to_owned),
            index: self.sequence.wrapping_sub(first) as usize,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_the_kernel_says() {
        let mut socket = Socket::route().unwrap();
        // A link without a name or number cannot be found.
        let message = Message::new(libc::RTM_GETLINK, 0, &[0; 16]);
        let refusal = socket.request(&[message]).unwrap_err();
        assert_eq!(refusal.errno, Errno::EINVAL);
        assert!(!refusal.to_string().is_empty());
    }

    #[test]
    fn a_list_comes_whole() {
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
    fn a_list_that_the_kernel_refuses_is_not_an_empty_one() {
        let mut socket = Socket::route().unwrap();
        // No link has such a type, and a header that says so is not to be had.
        let mut header = [0; 16];
        header[2] = 1;
        let message = Message::new(libc::RTM_GETLINK, libc::NLM_F_DUMP, &header);
        assert_eq!(socket.list(&message).unwrap_err().errno, Errno::EINVAL);
    }

    #[test]
    fn an_answer_that_is_cut_short_is_none() {
        let mut bytes: &[u8] = &[40, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(Answer::take(&mut bytes).is_none());
    }
}
