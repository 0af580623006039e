//! Extension headers: GNU long names and pax records.

use crate::{Error, Result};

/// What extension headers say about the entry after them.
#[derive(Default)]
pub(crate) struct Extension {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u64>,
    pub(crate) gid: Option<u64>,
    pub(crate) mtime: Option<u64>,
    pub(crate) xattrs: Vec<(String, Vec<u8>)>,
}

impl Extension {
    /// Reads pax records: `LENGTH KEY=VALUE\n`. The length includes itself; the value may hold any byte.
    pub(crate) fn read(&mut self, mut records: &[u8]) -> Result<()> {
        while !records.is_empty() {
            let (record, rest) = split_record(records).ok_or(Error::Record)?;
            let at = record.iter().position(|byte| *byte == b'=').ok_or(Error::Record)?;
            let (key, value) = (&record[..at], &record[at + 1..]);
            let key = std::str::from_utf8(key).map_err(|_| Error::Record)?;
            self.set(key, value)?;
            records = rest;
        }
        Ok(())
    }

    fn set(&mut self, key: &str, value: &[u8]) -> Result<()> {
        match key {
            "path" => self.path = Some(value.to_vec()),
            "linkpath" => self.link = Some(value.to_vec()),
            "size" => self.size = Some(number(value)?),
            "uid" => self.uid = Some(number(value)?),
            "gid" => self.gid = Some(number(value)?),
            // Times may be negative or have a fraction; whole seconds from 1970 on are kept.
            "mtime" => {
                let whole = value.split(|byte| *byte == b'.').next().unwrap_or_default();
                self.mtime = Some(number(whole).unwrap_or(0));
            }
            _ if key.starts_with("GNU.sparse.") => return Err(Error::Sparse),
            _ => {
                if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                    self.xattrs.push((name.to_owned(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

fn split_record(records: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = records.iter().position(|byte| *byte == b' ')?;
    let length = usize::try_from(number(&records[..space]).ok()?).ok()?;
    let record = records.get(space + 1..length)?;
    Some((record.strip_suffix(b"\n")?, &records[length..]))
}

fn number(digits: &[u8]) -> Result<u64> {
    std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).ok_or(Error::Number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_whose_length_lies_is_an_error() {
        let mut extension = Extension::default();

        assert!(extension.read(b"99 path=x\n").is_err());
        assert!(extension.read(b"0 path=x\n").is_err());
        assert!(extension.read(b"x").is_err());
    }
}
