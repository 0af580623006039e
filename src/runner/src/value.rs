//! Parsers of flag values.
//!
//! An error says what was expected; clap adds the rejected text. Environment variables are therefore never
//! rejected here: they may be secrets.

use std::ffi::{OsStr, OsString};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use clap::builder::{OsStringValueParser, TypedValueParser};
use sandbox::{Publish, User};

/// What a rejected text should have been.
pub(crate) type Refused = &'static str;

/// `NAME=VALUE`, or `NAME` of a variable that this process has. See [`Variable::named`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Variable {
    pub(crate) name: OsString,
    pub(crate) value: Option<OsString>,
}

impl Variable {
    /// None if the name is empty, which the caller rejects.
    pub(crate) fn named(self) -> Option<Self> {
        (!self.name.is_empty()).then_some(self)
    }
}

/// `SRC:DST` where the source is on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CopyIn {
    pub(crate) local: PathBuf,
    pub(crate) guest: PathBuf,
}

/// `SRC:DST` where the source is in the VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CopyOut {
    pub(crate) guest: PathBuf,
    pub(crate) local: PathBuf,
}

/// Source or destination of `runner cp`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CopyOperand {
    /// `VM:PATH`.
    Guest { vm: String, path: PathBuf },
    /// A path of the host.
    Local(PathBuf),
    /// `-`: standard input or output.
    Stream,
}

impl CopyOperand {
    /// The path, or none for a stream.
    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Self::Guest { path, .. } | Self::Local(path) => Some(path),
            Self::Stream => None,
        }
    }
}

/// A clap parser for paths and variables, which may contain any bytes.
pub(crate) fn os<T, F>(parse: F) -> impl TypedValueParser<Value = T>
where
    T: Clone + Send + Sync + 'static,
    F: Fn(&[u8]) -> Result<T, Refused> + Clone + Send + Sync + 'static,
{
    OsStringValueParser::new().try_map(move |text: OsString| parse(text.as_bytes()))
}

pub(crate) fn variable(text: &[u8]) -> Variable {
    let (name, value) = match split(text, text.iter().position(|byte| *byte == b'=')) {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (OsStr::from_bytes(text), None),
    };
    Variable { name: name.to_owned(), value }
}

pub(crate) fn copy_in(text: &[u8]) -> Result<CopyIn, Refused> {
    let colon = text.windows(2).rposition(|pair| pair == b":/");
    match split(text, colon) {
        Some((local, guest)) if !local.is_empty() => {
            Ok(CopyIn { local: local.into(), guest: guest.into() })
        }
        _ => Err("expected SRC:DST, with an absolute path in the VM as DST"),
    }
}

pub(crate) fn copy_out(text: &[u8]) -> Result<CopyOut, Refused> {
    match split(text, text.iter().position(|byte| *byte == b':')) {
        Some((guest, local)) if text.starts_with(b"/") && !local.is_empty() => {
            Ok(CopyOut { guest: guest.into(), local: local.into() })
        }
        _ => Err("expected SRC:DST, with an absolute path in the VM as SRC"),
    }
}

/// A path that begins with `.` or `/` is on the host, even if it contains colons.
pub(crate) fn copy_operand(text: &[u8]) -> Result<CopyOperand, Refused> {
    let local = || CopyOperand::Local(PathBuf::from(OsString::from_vec(text.to_vec())));
    if text.is_empty() {
        return Err("expected VM:PATH, a path, or -");
    }
    if text == b"-" {
        return Ok(CopyOperand::Stream);
    }
    let colon = text.iter().position(|byte| *byte == b':');
    let Some((vm, path)) = split(text, colon).filter(|(vm, _)| !vm.as_bytes().contains(&b'/'))
    else {
        return Ok(local());
    };
    match vm.to_str() {
        Some(vm) if !vm.is_empty() && path.as_bytes().starts_with(b"/") => {
            Ok(CopyOperand::Guest { vm: vm.to_owned(), path: path.into() })
        }
        _ => Err("expected VM:PATH with an absolute path, a path, or -"),
    }
}

/// The parts before and after the byte at `position`.
fn split(text: &[u8], position: Option<usize>) -> Option<(&OsStr, &OsStr)> {
    let (before, after) = text.split_at_checked(position?)?;
    Some((OsStr::from_bytes(before), OsStr::from_bytes(after.get(1..)?)))
}

/// `USER` or `USER:GROUP`, each a name or a number.
pub(crate) fn user(text: &str) -> Result<User, Refused> {
    let refused = "expected USER or USER:GROUP, each a name or a number";
    // chown(2) interprets this number (-1) as "unchanged".
    let id = |text: &str| text.parse::<u32>().ok().filter(|id| *id != u32::MAX);
    let is_good = |text: &str| !text.is_empty() && !text.contains(':');
    let Some((user, group)) = text.split_once(':') else {
        return if is_good(text) { Ok(User::Name(text.to_owned())) } else { Err(refused) };
    };
    match (id(user), id(group)) {
        (Some(uid), Some(gid)) => Ok(User::Ids { uid, gid }),
        _ if is_good(user) && is_good(group) => {
            Ok(User::InGroup { user: user.to_owned(), group: group.to_owned() })
        }
        _ => Err(refused),
    }
}

/// A number of bytes: `4096`, `64K`, `10M`, `1G`.
pub(crate) fn bytes(text: &str) -> Result<u64, Refused> {
    let refused = "expected a number of bytes, like 4096, 64K, 10M, 1G";
    let (number, shift) = match text.as_bytes().last() {
        Some(b'K') => (text.strip_suffix('K'), 10),
        Some(b'M') => (text.strip_suffix('M'), 20),
        Some(b'G') => (text.strip_suffix('G'), 30),
        _ => (Some(text), 0),
    };
    let number: u64 = number.unwrap_or_default().parse().map_err(|_| refused)?;
    number.checked_mul(1 << shift).ok_or(refused)
}

/// A VM's name, which cannot be confused with a path, a flag or `VM:PATH`.
pub(crate) fn name(text: &str) -> Result<String, Refused> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let starts = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !starts || text.len() > 63 || !text.bytes().all(good) {
        return Err(
            "expected up to 63 letters, digits, `-`, `_` and `.`, starting with a letter or digit",
        );
    }
    Ok(text.to_owned())
}

/// `[ADDRESS:]HOST:GUEST`: ports of the host and of the VM. The IPv4 address of the host defaults to
/// 127.0.0.1.
#[cfg(feature = "platform")]
pub(crate) fn group(text: &str) -> Result<String, Refused> {
    let expected = "expected scope/name, of lower-case letters, digits and `-`";
    if contract::is_group(text) { Ok(text.to_owned()) } else { Err(expected) }
}

pub(crate) fn publish(text: &str) -> Result<Publish, Refused> {
    let refused = "expected [ADDRESS:]HOST:GUEST, an IPv4 address of the host and two ports";
    let (host, guest) = text.rsplit_once(':').ok_or(refused)?;
    let port = guest.parse().ok().filter(|port| *port != 0).ok_or(refused)?;
    let host = match host.split_once(':') {
        Some(_) => host.parse().map_err(|_| refused)?,
        None => SocketAddrV4::new(Ipv4Addr::LOCALHOST, host.parse().map_err(|_| refused)?),
    };
    Ok(Publish { host, port })
}

/// An absolute path in the VM.
pub(crate) fn guest_path(text: &[u8]) -> Result<PathBuf, Refused> {
    if !text.starts_with(b"/") {
        return Err("expected an absolute path in the VM");
    }
    Ok(PathBuf::from(OsString::from_vec(text.to_vec())))
}

/// A path of the host, made absolute.
pub(crate) fn absolute(text: &[u8]) -> Result<PathBuf, Refused> {
    std::path::absolute(OsStr::from_bytes(text)).map_err(|_| "expected a path")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_has_a_name_and_an_optional_value_of_any_bytes() {
        let value = |text: &[u8]| variable(text).named().map(|variable| variable.value);
        assert_eq!(value(b"A=b=c"), Some(Some("b=c".into())));
        assert_eq!(value(b"A="), Some(Some("".into())));
        assert_eq!(value(b"A"), Some(None));
        assert_eq!(value(b"=b"), None);
        assert_eq!(value(b""), None);
        assert_eq!(variable(b"A=\xff").value.unwrap().as_bytes(), b"\xff");
    }

    #[test]
    fn a_copy_in_may_have_colons_in_its_local_part() {
        let copy = copy_in(b"./a:b:/srv/x").unwrap();
        assert_eq!(copy.local, PathBuf::from("./a:b"));
        assert_eq!(copy.guest, PathBuf::from("/srv/x"));
    }

    #[test]
    fn a_copy_needs_both_paths_and_an_absolute_one_in_the_vm() {
        assert!(copy_in(b"a").is_err());
        assert!(copy_in(b"a:b").is_err());
        assert!(copy_in(b":/b").is_err());
        assert!(copy_out(b"a:b").is_err());
        assert!(copy_out(b"/a").is_err());
        assert!(copy_out(b"/a:").is_err());
    }

    #[test]
    fn a_copy_operand_is_a_path_in_a_vm_a_local_path_or_a_stream() {
        let path = PathBuf::from("/srv");
        assert_eq!(copy_operand(b"web:/srv"), Ok(CopyOperand::Guest { vm: "web".into(), path }));
        assert_eq!(copy_operand(b"./web:/srv"), Ok(CopyOperand::Local("./web:/srv".into())));
        assert_eq!(copy_operand(b"file"), Ok(CopyOperand::Local("file".into())));
        assert_eq!(copy_operand(b"-"), Ok(CopyOperand::Stream));
        assert!(copy_operand(b"web:srv").is_err());
    }

    #[test]
    fn a_user_is_a_name_or_numbers() {
        assert_eq!(user("user"), Ok(User::Name("user".into())));
        assert_eq!(user("1000:50"), Ok(User::Ids { uid: 1000, gid: 50 }));
        assert_eq!(user("7"), Ok(User::Name("7".into())));
        let in_group = |user: &str, group: &str| {
            Ok(User::InGroup { user: user.to_owned(), group: group.to_owned() })
        };
        assert_eq!(user("user:staff"), in_group("user", "staff"));
        assert_eq!(user("7:staff"), in_group("7", "staff"));
        assert_eq!(user("user:50"), in_group("user", "50"));
        for text in ["", ":", "user:", ":staff", "a:b:c"] {
            assert!(user(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_port_is_published_on_the_loopback_device() {
        let published = publish("8080:80").unwrap();
        assert_eq!((published.host.to_string().as_str(), published.port), ("127.0.0.1:8080", 80));
        assert!(publish("0:80").is_ok());
        for text in ["80", "8080:0", "x:80", "80:x", "65536:80", "host:80:80", "::1:80:80"] {
            assert!(publish(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_port_is_published_on_the_address_that_is_named() {
        let host = |text| publish(text).map(|published| published.host.to_string());
        assert_eq!(host("192.0.2.7:8080:80"), Ok("192.0.2.7:8080".to_owned()));
        assert_eq!(host("0.0.0.0:0:80"), Ok("0.0.0.0:0".to_owned()));
    }

    #[test]
    fn bytes_may_have_a_suffix() {
        assert_eq!(bytes("64K"), Ok(65536));
        assert_eq!(bytes("0"), Ok(0));
        assert!(bytes("K").is_err());
        assert!(bytes("18446744073709551615G").is_err());
    }

    #[test]
    fn a_name_that_looks_like_a_path_or_a_flag_is_rejected() {
        assert!(name("web-1").is_ok());
        assert!(name("-web").is_err());
        assert!(name("a/b").is_err());
        assert!(name("a:b").is_err());
        assert!(name("").is_err());
    }
}
