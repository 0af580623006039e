//! Replacing a part of a file.

use std::io::Read as _;

use sandbox_api::files::Range;
use serde_json::json;

use super::definition::{Effect, Output, Tool};
use super::schema;
use crate::argument::{Arguments, needed};
use crate::call::Call;
use crate::failure::{Failure, Result};

pub(super) const EDIT: Tool = Tool {
    name: "edit_file",
    title: "Edit a file",
    description: |_| {
        "Replaces a text in a file of a sandbox. `old_text` has to be in the file exactly once, spaces and line breaks \
         included: add lines around it if it is there more often, or set `replace_all`."
            .to_owned()
    },
    input: |_| {
        let properties = json!({
            "path": schema::path("The file."),
            "old_text": schema::string("The text to replace."),
            "new_text": schema::string("The text to put in its place."),
            "replace_all": schema::flag("Whether every place is replaced."),
            "user": schema::user(),
            "sandbox_id": schema::sandbox(),
        });
        (properties, &["path", "old_text", "new_text"])
    },
    output: None,
    effect: Effect::Changes,
    run: edit,
};

/// The largest file, in bytes.
const LARGEST: usize = 16 << 20;

fn edit(call: &Call<'_>, mut arguments: Arguments) -> Result<Output> {
    let path = needed("path", arguments.name("path")?)?;
    let old = needed("old_text", arguments.text("old_text")?)?;
    let new = needed("new_text", arguments.text("new_text")?)?;
    let is_everywhere = arguments.flag("replace_all")?;
    let user = arguments.name("user")?;
    let sandbox = arguments.sandbox()?;
    arguments.finish()?;
    if old.is_empty() {
        return Err(Failure::new("`old_text` is empty: write_file makes a new file"));
    }
    let entered = call.enter(sandbox.as_deref(), call.timeout())?;
    let login = entered.login(call, user.as_deref())?;
    let files = login.files(&entered.running);
    let file = files.read_file(&path, Range::default(), call.timeout());
    let file = file.map_err(|error| entered.file_failure(&error))?;
    let path = file.entry().path.clone();
    let mut content = Vec::new();
    let read = file.take(LARGEST as u64 + 1).read_to_end(&mut content);
    read.map_err(|error| Failure::new(format!("cannot read {path}: {error}")))?;
    if content.len() > LARGEST {
        let text =
            format!("{path} has over {LARGEST} bytes: edit it with run_command, say with sed");
        return Err(Failure::new(text));
    }
    let content = String::from_utf8(content)
        .map_err(|_| Failure::new(format!("{path} is not a text file (UTF-8)")))?;
    let (content, count) = replace(&content, (&old, &new), is_everywhere, &path)?;
    call.check()?;
    let written = files.upload(&path, &mut content.as_bytes(), None, call.timeout());
    written.map_err(|error| entered.file_failure(&error))?;
    let places = if count == 1 { "1 place".to_owned() } else { format!("{count} places") };
    Ok(Output::text(format!("replaced {places} in {path}")))
}

/// The new content, and how many places were replaced.
fn replace(
    content: &str,
    (old, new): (&str, &str),
    is_everywhere: bool,
    path: &str,
) -> Result<(String, usize)> {
    let count = content.matches(old).count();
    match count {
        0 if !old.contains('\r') && content.replace("\r\n", "\n").contains(old) => {
            let text = format!(
                "`old_text` is in {path} with other line breaks: the file has CR LF, so write \\r\\n"
            );
            Err(Failure::new(text))
        }
        0 => Err(Failure::new(format!(
            "`old_text` is not in {path}: read the file, and copy the text exactly, spaces included"
        ))),
        1 => Ok((content.replacen(old, new, 1), 1)),
        _ if is_everywhere => Ok((content.replace(old, new), count)),
        _ => Err(Failure::new(format!(
            "`old_text` is in {path} {count} times: add lines around it until it is unique, or set `replace_all`"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(content: &str, old: &str, is_everywhere: bool) -> Result<(String, usize)> {
        replace(content, (old, "x"), is_everywhere, "/f")
    }

    fn refusal(content: &str, old: &str) -> String {
        match replaced(content, old, false) {
            Err(Failure::Error(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_text_is_replaced_where_it_is_unique_or_everywhere() {
        assert_eq!(replaced("a b c", "b", false).unwrap(), ("a x c".to_owned(), 1));
        assert_eq!(replaced("b b", "b", true).unwrap(), ("x x".to_owned(), 2));
    }

    #[test]
    fn a_text_that_is_missing_or_ambiguous_is_refused() {
        assert!(refusal("b b", "b").contains("2 times"));
        assert!(refusal("abc", "d").contains("is not in /f"));
        assert!(refusal("a\r\nb", "a\nb").contains("CR LF"));
    }
}
