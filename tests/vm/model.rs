//! A scripted model: as much of the Messages API as the real Claude Code CLI needs, on the
//! internet of a test's host.
//!
//! ```ignore
//! let model = Model::serve(&runner.world, vec![vec![bash("make test")], vec![say("done")]]);
//! runner.succeed(&["run", "--image", "claude", "--env", &model.variable(), …]);
//! assert_eq!(model.questions().len(), 2);
//! ```
//!
//! What it says depends on nothing but the conversation that it is shown: its first answer is the
//! script's first turn, and so on; when the script is over, its last turn is said again. So a session
//! that is resumed, in another VM perhaps, goes on in the script, and any number of sessions can be
//! under way at once. Requests that offer no tools (for titles, say) are not part of a conversation.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use netns::testing::{INTERNET, World};
use serde_json::{Value, json};

use crate::http::{self, Request, Server};

/// A part of what the model says.
#[derive(Clone, Debug)]
pub(crate) enum Block {
    Text(String),
    Tool { name: String, input: Value },
}

/// What it says at once.
pub(crate) type Turn = Vec<Block>;

pub(crate) fn say(text: &str) -> Block {
    Block::Text(text.to_owned())
}

/// Asks for a command to be run.
pub(crate) fn bash(command: &str) -> Block {
    let input = json!({"command": command, "description": "scripted"});
    Block::Tool { name: "Bash".to_owned(), input }
}

/// Asks for a tool to be called.
pub(crate) fn tool(name: &str, input: Value) -> Block {
    Block::Tool { name: name.to_owned(), input }
}

/// What the model was asked.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    /// The key that came with it.
    pub(crate) key: Option<String>,
    pub(crate) body: Value,
}

impl Question {
    /// Which of the model's answers in the conversation this one wants; `None` if it is not part
    /// of one.
    fn turn(&self) -> Option<usize> {
        let tools = self.body["tools"].as_array()?;
        let messages = self.body["messages"].as_array()?;
        let has_bash = tools.iter().any(|tool| tool["name"] == "Bash");
        let answers = messages.iter().filter(|message| message["role"] == "assistant").count();
        has_bash.then_some(answers)
    }
}

/// The endpoint. It ends when it is dropped.
pub(crate) struct Model {
    address: SocketAddr,
    questions: Arc<Mutex<Vec<Question>>>,
    _server: Server,
}

impl Model {
    /// Serves the script, which has a turn at least.
    pub(crate) fn serve(world: &World, script: Vec<Turn>) -> Self {
        assert!(!script.is_empty());
        let listener = world.on_the_internet(|| TcpListener::bind((INTERNET, 0)).unwrap());
        let address = listener.local_addr().unwrap();
        let questions = Arc::new(Mutex::new(Vec::new()));
        let asked = Arc::clone(&questions);
        let server = Server::start(listener, move |request, stream| {
            if request.method != "POST" || !request.path.starts_with("/v1/messages") {
                return http::respond(stream, &json!({}));
            }
            if request.path.starts_with("/v1/messages/count_tokens") {
                return http::respond(stream, &json!({"input_tokens": 1}));
            }
            let question = question(request)?;
            asked.lock().unwrap().push(question.clone());
            answer(stream, &question, &script)
        });
        Self { address, questions, _server: server }
    }

    /// Where it is.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it is, for `--env`.
    pub(crate) fn variable(&self) -> String {
        let (name, value) = self.pair();
        format!("{name}={value}")
    }

    /// The same, as a name and a value.
    pub(crate) fn pair(&self) -> (String, String) {
        ("ANTHROPIC_BASE_URL".to_owned(), format!("http://{}", self.address))
    }

    /// What it was asked in conversations so far.
    pub(crate) fn questions(&self) -> Vec<Question> {
        let questions = self.questions.lock().unwrap();
        questions.iter().filter(|question| question.turn().is_some()).cloned().collect()
    }
}

fn question(request: &Request) -> io::Result<Question> {
    let key = request.header("x-api-key").or_else(|| request.header("authorization"));
    let body = serde_json::from_slice(&request.body)?;
    Ok(Question { key: key.map(str::to_owned), body })
}

fn answer(stream: &mut TcpStream, question: &Question, script: &[Turn]) -> io::Result<()> {
    let aside = vec![say("ok")];
    let number = question.turn();
    let turn = number.map_or(&aside, |number| &script[number.min(script.len() - 1)]);
    let content: Vec<Value> = turn
        .iter()
        .enumerate()
        .map(|(index, block)| match block {
            Block::Text(text) => json!({"type": "text", "text": text}),
            Block::Tool { name, input } => {
                let id = format!("toolu_{}_{index}", number.unwrap_or_default());
                json!({"type": "tool_use", "id": id, "name": name, "input": input})
            }
        })
        .collect();
    let wants_tools = turn.iter().any(|block| matches!(block, Block::Tool { .. }));
    let reason = if wants_tools { "tool_use" } else { "end_turn" };
    let message = json!({
        "id": format!("msg_{}", number.unwrap_or_default()), "type": "message", "role": "assistant",
        "model": question.body["model"], "content": content, "stop_reason": reason,
        "stop_sequence": null, "usage": {"input_tokens": 1, "output_tokens": 1},
    });
    match question.body["stream"].as_bool() {
        Some(true) => stream_message(stream, message),
        _ => http::respond(stream, &message),
    }
}

/// Sends a message as the events that it is made up from.
fn stream_message(stream: &mut TcpStream, mut message: Value) -> io::Result<()> {
    let content = message["content"].take();
    let reason = message["stop_reason"].take();
    message["content"] = json!([]);
    http::begin_events(stream)?;
    event(stream, json!({"type": "message_start", "message": message}))?;
    for (index, mut block) in content.as_array().into_iter().flatten().cloned().enumerate() {
        let delta = if block["type"] == "tool_use" {
            let input = std::mem::replace(&mut block["input"], json!({}));
            json!({"type": "input_json_delta", "partial_json": input.to_string()})
        } else {
            let text = std::mem::replace(&mut block["text"], json!(""));
            json!({"type": "text_delta", "text": text})
        };
        let start = json!({"type": "content_block_start", "index": index, "content_block": block});
        event(stream, start)?;
        event(stream, json!({"type": "content_block_delta", "index": index, "delta": delta}))?;
        event(stream, json!({"type": "content_block_stop", "index": index}))?;
    }
    let delta = json!({"stop_reason": reason, "stop_sequence": null});
    let usage = json!({"output_tokens": 1});
    event(stream, json!({"type": "message_delta", "delta": delta, "usage": usage}))?;
    event(stream, json!({"type": "message_stop"}))
}

fn event(stream: &mut TcpStream, data: Value) -> io::Result<()> {
    let kind = data["type"].as_str().unwrap_or_default();
    stream.write_all(format!("event: {kind}\ndata: {data}\n\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(body: Value) -> Option<usize> {
        Question { key: None, body }.turn()
    }

    #[test]
    fn the_model_counts_its_answers_as_turns() {
        let messages = json!([{"role": "user"}, {"role": "assistant"}, {"role": "user"}]);

        assert_eq!(turn(json!({"tools": [{"name": "Bash"}], "messages": messages})), Some(1));
    }

    #[test]
    fn a_request_without_tools_does_not_count_as_a_turn() {
        assert_eq!(turn(json!({"messages": [{"role": "user"}]})), None);
        assert_eq!(turn(json!({"tools": [], "messages": [{"role": "user"}]})), None);
    }
}
