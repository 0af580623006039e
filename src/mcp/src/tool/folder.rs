//! Listing a folder.

use std::fmt::Write as _;

use sandbox_api::files::{Entry, Kind, Listing};
use serde_json::json;

use super::definition::{Effect, Output, Tool};
use super::schema;
use crate::argument::Arguments;
use crate::call::Call;
use crate::failure::Result;

pub(super) const LIST: Tool = Tool {
    name: "list_files",
    title: "List files",
    description: |_| {
        "Lists a folder of a sandbox: permissions, owner, size, time and path of each entry. Folders end with a slash."
            .to_owned()
    },
    input: |_| {
        let properties = json!({
            "path": schema::path("The folder; the user's home unless given."),
            "depth": schema::number("1 for its own entries, 2 for those of its folders, too.", 1, DEEPEST),
            "user": schema::user(),
            "sandbox_id": schema::sandbox(),
        });
        (properties, &[])
    },
    output: None,
    effect: Effect::Reads,
    run: list,
};

const DEEPEST: u64 = 10;

fn list(call: &Call<'_>, mut arguments: Arguments) -> Result<Output> {
    let path = arguments.name("path")?.unwrap_or_else(|| "~".to_owned());
    let depth = arguments.number("depth", 1..=DEEPEST)?.unwrap_or(1);
    let user = arguments.name("user")?;
    let sandbox = arguments.sandbox()?;
    arguments.finish()?;
    let entered = call.enter(sandbox.as_deref(), call.timeout())?;
    let login = entered.login(call, user.as_deref())?;
    let depth = u32::try_from(depth).unwrap_or(u32::MAX);
    let listing = login.files(&entered.running).list(&path, depth, call.deadline());
    let listing = listing.map_err(|error| entered.file_failure(&error))?;
    Ok(Output::text(text(&listing, call.options().max_result)))
}

/// A line for each entry, as many as there is room for.
pub(crate) fn text(listing: &Listing, most: usize) -> String {
    let (mut text, mut shown) = (String::new(), 0);
    for entry in &listing.entries {
        let line = line(entry);
        if text.len() + line.len() > most {
            break;
        }
        text.push_str(&line);
        shown += 1;
    }
    let all = listing.entries.len();
    if shown < all {
        let left = all - shown;
        let _ = write!(
            text,
            "[{left} of {all} entries are left out: list a folder below it, or use find]"
        );
    } else if all == 0 {
        text.push_str("[the folder is empty]");
    }
    if listing.summary.unreadable > 0 {
        let _ = write!(text, "[{} folders cannot be read by the user]", listing.summary.unreadable);
    }
    text
}

fn line(entry: &Entry) -> String {
    let Entry { permissions, owner, size, path, .. } = entry;
    // Without fractions of seconds.
    let time = entry.modified.get(..19).unwrap_or(&entry.modified);
    let suffix = match (entry.kind, &entry.link) {
        (Kind::Dir, _) => "/".to_owned(),
        (_, Some(link)) => format!(" -> {}", link.target),
        _ => String::new(),
    };
    format!("{permissions} {owner} {size:>9} {time} {path}{suffix}\n")
}
