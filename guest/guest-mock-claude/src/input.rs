//! Prompts from the command line or from stdin.

use std::io::{self, BufRead as _, IsTerminal as _};

use serde::Deserialize;

use crate::arguments::Input;
use crate::error::{Error, Result};

/// The prompts, each as soon as it is read: stdin may stay open between two messages.
pub(crate) fn prompts(input: Input) -> Box<dyn Iterator<Item = Result<String>>> {
    match input {
        Input::Argument(prompt) => Box::new(std::iter::once(Ok(prompt))),
        Input::Text => Box::new(text().transpose().into_iter()),
        Input::Messages => Box::new(messages()),
    }
}

/// The whole of stdin. `None` if it is empty or a terminal.
fn text() -> Result<Option<String>> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return Ok(None);
    }
    let text = io::read_to_string(stdin).map_err(|source| Error::ReadStdin { source })?;
    let text = text.trim_end();
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// The user messages on stdin. Lines of other types are ignored.
fn messages() -> impl Iterator<Item = Result<String>> {
    let lines = io::stdin().lock().lines().enumerate();
    lines.filter_map(|(index, line)| match line {
        Ok(line) if line.trim().is_empty() => None,
        Ok(line) => user_message(&line)
            .map_err(|source| Error::Message { line: index + 1, source })
            .transpose(),
        Err(source) => Some(Err(Error::ReadStdin { source })),
    })
}

fn user_message(line: &str) -> serde_json::Result<Option<String>> {
    Ok(match serde_json::from_str(line)? {
        Line::User { message } => Some(message.content.text()),
        Line::Other => None,
    })
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line {
    User {
        message: Message,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Message {
    content: Content,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Blocks(Vec<Block>),
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block {
    Text {
        text: String,
    },
    #[serde(other)]
    Other,
}

impl Content {
    /// The text blocks, joined by line feeds.
    fn text(self) -> String {
        match self {
            Content::Text(text) => text,
            Content::Blocks(blocks) => {
                let texts = blocks.into_iter().filter_map(|block| match block {
                    Block::Text { text } => Some(text),
                    Block::Other => None,
                });
                texts.collect::<Vec<_>>().join("\n")
            }
        }
    }
}
