//! Lists of clients with a maximum length.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};

/// Reads a list of at most `MOST` items. Of a longer list one item more is kept, by which the
/// caller detects it, and the rest is dropped while it is read.
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
    fn a_list_within_its_limit_is_read_completely() {
        assert_eq!(read("[]").unwrap(), [0; 0]);
        assert_eq!(read("[1, 2, 3]").unwrap(), [1, 2, 3]);
    }

    #[test]
    fn a_list_over_its_limit_is_detected_with_one_item_more() {
        let long = format!("[{}1]", "1,".repeat(100_000));

        let read = read(&long).unwrap();

        assert_eq!(read.len(), 4);
        assert!(read.capacity() < 16);
    }

    #[test]
    fn a_value_that_is_not_a_list_is_rejected() {
        assert!(read("{}").is_err());
        assert!(read("[1, 2, 3, 4, 5").is_err());
    }
}
