//! The account that jobs run as, in the files of `/etc` that name accounts.
//!
//! Lookups take the first line that fits. Our line goes before every other with
//! its number, so the number's name is `user` and a name that the image gave the
//! number before, such as `node`, still works and still owns its files. A `user`
//! with another number is replaced.

pub(crate) use contract::guest::{HOME, USER as NAME, USER_ID as ID, WORKSPACE};

/// `/etc/passwd` with our account; `shell` is its login shell.
pub(crate) fn passwd(text: &str, shell: &str) -> String {
    let text = if text.is_empty() { "root:x:0:0:root:/root:/bin/sh\n" } else { text };
    insert(text, 2, &format!("{NAME}:x:{ID}:{ID}::{HOME}:{shell}"))
}

/// `/etc/group` with our group.
pub(crate) fn group(text: &str) -> String {
    let text = if text.is_empty() { "root:x:0:\n" } else { text };
    insert(text, 2, &format!("{NAME}:x:{ID}:"))
}

/// `/etc/shadow` with our account, which no password opens.
pub(crate) fn shadow(text: &str) -> String {
    let line = format!("{NAME}:*:::::::");
    let others = text.lines().filter(|other| name(other) != NAME);
    join(others.chain([line.as_str()]))
}

/// `/etc/subuid` or `/etc/subgid` with a range for our account, unless it has one.
pub(crate) fn subordinate(text: &str) -> String {
    const FIRST: u32 = 100_000;
    const COUNT: u32 = 65_536;
    if text.lines().any(|line| name(line) == NAME) {
        return text.to_owned();
    }
    let ends = text.lines().filter_map(|line| {
        let mut numbers = line.split(':').skip(1).map(|number| number.parse::<u32>().ok());
        numbers.next()??.checked_add(numbers.next()??)
    });
    let first = ends.max().unwrap_or(FIRST).max(FIRST);
    let line = format!("{NAME}:{first}:{COUNT}");
    join(text.lines().chain([line.as_str()]))
}

/// Puts `line` before the first other line with our number in the given field.
fn insert(text: &str, field: usize, line: &str) -> String {
    let others: Vec<&str> = text.lines().filter(|other| name(other) != NAME).collect();
    let id = ID.to_string();
    let at = others
        .iter()
        .position(|other| other.split(':').nth(field) == Some(&id))
        .unwrap_or(others.len());
    let (before, after) = others.split_at(at);
    join(before.iter().copied().chain([line]).chain(after.iter().copied()))
}

fn name(line: &str) -> &str {
    line.split(':').next().unwrap_or_default()
}

fn join<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    lines.flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "root:x:0:0:root:/root:/bin/bash\n";
    const OURS: &str = "user:x:1000:1000::/home/user:/bin/bash\n";

    #[test]
    fn account_is_added_at_the_end() {
        assert_eq!(passwd(ROOT, "/bin/bash"), format!("{ROOT}{OURS}"));
    }

    #[test]
    fn an_account_precedes_others_with_the_same_uid() {
        let node = "node:x:1000:1000::/home/node:/bin/sh\n";

        assert_eq!(passwd(&format!("{ROOT}{node}"), "/bin/bash"), format!("{ROOT}{OURS}{node}"));
    }

    #[test]
    fn account_of_the_same_name_is_replaced() {
        let other = "user:x:1001:1001::/srv:/bin/false\n";

        assert_eq!(passwd(&format!("{ROOT}{other}"), "/bin/bash"), format!("{ROOT}{OURS}"));
    }

    #[test]
    fn image_without_accounts_gets_root_and_ours() {
        assert_eq!(group(""), "root:x:0:\nuser:x:1000:\n");
    }

    #[test]
    fn inserting_twice_changes_nothing() {
        let once = passwd(ROOT, "/bin/bash");

        assert_eq!(passwd(&once, "/bin/bash"), once);
    }

    #[test]
    fn shadow_locks_the_password() {
        assert_eq!(
            shadow("root:*:1::::::\nuser:secret:1::::::\n"),
            "root:*:1::::::\nuser:*:::::::\n"
        );
    }

    #[test]
    fn a_last_line_without_a_newline_is_kept() {
        assert_eq!(group("root:x:0:"), "root:x:0:\nuser:x:1000:\n");
    }

    #[test]
    fn subordinate_ids_overlap_with_no_others_and_are_added_once() {
        let given = subordinate("node:100000:65536\n");

        assert_eq!(given, "node:100000:65536\nuser:165536:65536\n");
        assert_eq!(subordinate(&given), given);
    }
}
