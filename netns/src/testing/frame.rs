//! Frames that a guest's root user can send, preceded by the virtio-net header of taps.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "for tests")]

use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const OFFLOADS: usize = 10;
const GATEWAY_MAC: [u8; 6] = crate::guest::GATEWAY_MAC;

/// The payload of datagrams.
pub const PAYLOAD: &[u8] = b"payload";

/// A datagram with [`PAYLOAD`].
pub fn udp(mac: [u8; 6], from: Ipv4Addr, to: Ipv4Addr, port: u16) -> Vec<u8> {
    let length = (8 + PAYLOAD.len()) as u16;
    // Without a checksum, which IPv4 allows.
    let header = [9u16.to_be_bytes(), port.to_be_bytes(), length.to_be_bytes(), [0, 0]].concat();
    ip(mac, from, to, libc::IPPROTO_UDP, &[&header, PAYLOAD].concat())
}

/// A datagram from this port of the guest.
pub fn udp_from(from: u16, to: Ipv4Addr, port: u16) -> Vec<u8> {
    let length = (8 + PAYLOAD.len()) as u16;
    let header = [from.to_be_bytes(), port.to_be_bytes(), length.to_be_bytes(), [0, 0]].concat();
    let datagram = [&header, PAYLOAD].concat();
    ip(crate::guest::MAC, crate::guest::ADDRESS, to, libc::IPPROTO_UDP, &datagram)
}

/// A SYN from this port of the guest to port 80.
pub fn syn(from: Ipv4Addr, to: Ipv4Addr, port: u16) -> Vec<u8> {
    let mut segment = [0; 20];
    segment[..2].copy_from_slice(&port.to_be_bytes());
    segment[3] = 80;
    segment[12] = 5 << 4;
    segment[13] = 2;
    segment[14] = 0xff;
    let addresses = [from.octets(), to.octets()].concat();
    let pseudo = [&addresses[..], &[0, libc::IPPROTO_TCP as u8, 0, 20], &segment].concat();
    let sum = sum(&pseudo);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    ip(crate::guest::MAC, from, to, libc::IPPROTO_TCP, &segment)
}

/// An ARP request.
pub fn arp(mac: [u8; 6], from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let fixed = [0, 1, 8, 0, 6, 4, 0, 1];
    let body = [&fixed[..], &mac, &from.octets(), &[0; 6], &to.octets()].concat();
    ethernet([0xff; 6], mac, 0x0806, &body)
}

/// A TCP packet of IPv6, truncated after its ports.
pub fn ipv6(to: Ipv6Addr, port: u16) -> Vec<u8> {
    let mut packet = [0; 60];
    packet[0] = 0x60;
    packet[5] = 20;
    packet[6] = libc::IPPROTO_TCP as u8;
    packet[24..40].copy_from_slice(&to.octets());
    packet[42..44].copy_from_slice(&port.to_be_bytes());
    let group = [0x33, 0x33, 0, 0, 0, 1];
    let receiver = if to.is_multicast() { group } else { GATEWAY_MAC };
    ethernet(receiver, crate::guest::MAC, 0x86dd, &packet)
}

/// A datagram to a multicast address.
pub fn multicast(to: Ipv4Addr) -> Vec<u8> {
    let mut frame = udp(crate::guest::MAC, crate::guest::ADDRESS, to, 5353);
    let [_, b, c, d] = to.octets();
    frame[OFFLOADS..OFFLOADS + 6].copy_from_slice(&[0x01, 0x00, 0x5e, b & 0x7f, c, d]);
    frame
}

/// A frame of this Ethernet type.
pub fn of_type(mac: [u8; 6], kind: u16) -> Vec<u8> {
    ethernet(GATEWAY_MAC, mac, kind, &[0; 46])
}

/// Receives frames from a tap.
pub fn listen(mut tap: &File, time: Duration) -> Vec<Vec<u8>> {
    let deadline = Instant::now() + time;
    let mut frames = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(tap.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::try_from(left).unwrap()).unwrap() == 0 {
            return frames;
        }
        let mut frame = vec![0; 2048];
        let count = tap.read(&mut frame).unwrap();
        frame.truncate(count);
        frames.push(frame);
    }
}

fn ip(mac: [u8; 6], from: Ipv4Addr, to: Ipv4Addr, protocol: i32, payload: &[u8]) -> Vec<u8> {
    let mut header = [0; 20];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&((20 + payload.len()) as u16).to_be_bytes());
    header[8] = 64;
    header[9] = protocol as u8;
    header[12..16].copy_from_slice(&from.octets());
    header[16..].copy_from_slice(&to.octets());
    let sum = sum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    ethernet(GATEWAY_MAC, mac, 0x0800, &[&header, payload].concat())
}

fn ethernet(to: [u8; 6], from: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    [&[0; OFFLOADS][..], &to, &from, &kind.to_be_bytes(), payload].concat()
}

/// The checksum of IPv4 and TCP, for an even number of bytes.
fn sum(bytes: &[u8]) -> u16 {
    let extack = bytes.chunks_exact(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let mut sum: u32 = extack.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
