//! The messages of requests, as JSON has them. Names are in camel case; clients may also use snake case.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use connect_rpc::{Code, Error};
use sandbox::PtySize;
use serde::{Deserialize, Deserializer};

use crate::process::Selector;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Start {
    pub(super) process: Option<Config>,
    pub(super) pty: Option<Pty>,
    pub(super) tag: Option<String>,
    pub(super) stdin: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Config {
    pub(super) cmd: String,
    pub(super) args: Vec<String>,
    pub(super) envs: BTreeMap<String, String>,
    pub(super) cwd: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pty {
    size: Option<Size>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Size {
    cols: u32,
    rows: u32,
}

/// A process, and what is done with it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct OnProcess {
    process: Option<Which>,
    pub(super) input: Option<Input>,
    pub(super) signal: Option<Signal>,
    pub(super) pty: Option<Pty>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Which {
    pid: Option<u32>,
    tag: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Input {
    pub(super) stdin: Option<Bytes>,
    pub(super) pty: Option<Bytes>,
}

/// A message of an input stream: one of its fields.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct InputPart {
    pub(super) start: Option<OnProcess>,
    pub(super) data: Option<OnProcess>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Signal {
    Name(String),
    Number(i64),
}

/// Bytes in base64: either alphabet, with or without padding.
#[derive(Debug, Default)]
pub(super) struct Bytes(pub(super) Vec<u8>);

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct OnPath {
    pub(super) path: String,
    pub(super) depth: Option<u32>,
    pub(super) source: String,
    pub(super) destination: String,
    pub(super) recursive: bool,
    #[serde(alias = "include_entry")]
    pub(super) include_entry: bool,
    #[serde(alias = "allow_network_mounts")]
    pub(super) allow_network_mounts: bool,
    #[serde(alias = "watcher_id")]
    pub(super) watcher_id: String,
}

impl OnProcess {
    pub(super) fn selector(&self) -> Result<Selector, Error> {
        match self.process.as_ref().map(|which| (which.pid, which.tag.clone())) {
            Some((Some(pid), None)) => Ok(Selector::Pid(pid)),
            Some((None, Some(tag))) => Ok(Selector::Tag(tag)),
            _ => Err(invalid("a process is named by either its pid or its tag")),
        }
    }
}

impl Pty {
    pub(super) fn size(&self) -> Result<PtySize, Error> {
        let size = self.size.as_ref().ok_or_else(|| invalid("the terminal has no size"))?;
        let number = |number| u16::try_from(number).ok().filter(|number| *number > 0);
        match (number(size.rows), number(size.cols)) {
            (Some(rows), Some(columns)) => Ok(PtySize { rows, columns }),
            _ => Err(invalid("a terminal has 1 to 65535 rows and columns")),
        }
    }
}

impl Signal {
    /// Its number, if it is one that clients may send.
    pub(super) fn number(&self) -> Option<u8> {
        match self {
            Self::Name(name) if name == "SIGNAL_SIGTERM" => Some(15),
            Self::Name(name) if name == "SIGNAL_SIGKILL" => Some(9),
            Self::Number(15) => Some(15),
            Self::Number(9) => Some(9),
            _ => None,
        }
    }
}

pub(super) fn invalid(message: &str) -> Error {
    Error::new(Code::InvalidArgument, message)
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const CONFIG: GeneralPurposeConfig =
            GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        let text = String::deserialize(deserializer)?;
        let alphabet = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
        let decoded = GeneralPurpose::new(alphabet, CONFIG).decode(text);
        decoded.map(Self).map_err(|_| serde::de::Error::custom("bytes are not in base64"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_may_have_either_alphabet_and_no_padding() {
        let decode =
            |text: &str| serde_json::from_str::<Bytes>(&format!("\"{text}\"")).map(|it| it.0);
        assert_eq!(decode("+/8=").unwrap(), [0xfb, 0xff]);
        assert_eq!(decode("-_8").unwrap(), [0xfb, 0xff]);
        assert!(decode("").unwrap().is_empty());
        assert!(decode("a*").is_err());
    }

    #[test]
    fn a_process_is_named_by_one_of_pid_and_tag() {
        let selector = |text| serde_json::from_str::<OnProcess>(text).unwrap().selector().ok();
        assert_eq!(selector(r#"{"process":{"pid":3}}"#), Some(Selector::Pid(3)));
        assert_eq!(selector(r#"{"process":{"tag":"a"}}"#), Some(Selector::Tag("a".into())));
        assert_eq!(selector(r#"{"process":{"tag":"a","pid":3}}"#), None);
        assert_eq!(selector(r#"{"process":{}}"#), None);
        assert_eq!(selector("{}"), None);
    }

    #[test]
    fn an_empty_input_is_an_input() {
        let input: OnProcess = serde_json::from_str(r#"{"input":{"stdin":""}}"#).unwrap();
        assert!(input.input.unwrap().stdin.unwrap().0.is_empty());
    }
}
