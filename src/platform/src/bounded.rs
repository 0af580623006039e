//! Lists that a client sends: no more of them is kept than may be in them.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};

/// Reads a list of at most `MOST` items. Of a longer one all but one item more is dropped as it is
/// read: so its length tells that it is too long, and it takes no memory.
pub(crate) fn list<'de, D, T, const MOST: usize>(from: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    from.deserialize_seq(Items::<T, MOST>(PhantomData))
}

struct Items<T, const MOST: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for Items<T, MOST> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
        let mut kept = Vec::new();
        while kept.len() <= MOST {
            match items.next_element()? {
                Some(item) => kept.push(item),
                None => return Ok(kept),
            }
        }
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> serde_json::Result<Vec<u8>> {
        list::<_, u8, 3>(&mut serde_json::Deserializer::from_str(json))
    }

    #[test]
    fn a_list_within_its_limit_is_read_whole() {
        assert_eq!(read("[]").unwrap(), [0; 0]);
        assert_eq!(read("[1, 2, 3]").unwrap(), [1, 2, 3]);
    }

    #[test]
    fn of_a_longer_list_no_more_is_kept_than_tells_so() {
        let long = format!("[{}1]", "1,".repeat(100_000));

        let read = read(&long).unwrap();

        assert_eq!(read.len(), 4);
        assert!(read.capacity() < 16);
    }

    #[test]
    fn what_is_no_list_is_refused() {
        assert!(read("{}").is_err());
        assert!(read("[1, 2, 3, 4, 5").is_err());
    }
}
