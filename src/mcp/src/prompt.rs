//! Prompts that users choose.

use serde_json::{Map, Value, json};

use crate::message::{RpcError, shorten};

const NAME: &str = "in_sandbox";

/// The result of `prompts/list`.
pub(crate) fn list() -> Value {
    json!({"prompts": [{
        "name": NAME,
        "title": "Do it in a sandbox",
        "description": "Do a task in a sandbox instead of on this computer",
        "arguments": [{"name": "task", "description": "What is to be done", "required": true}],
    }]})
}

/// The result of `prompts/get`.
pub(crate) fn get(params: &Map<String, Value>) -> Result<Value, RpcError> {
    let name = params.get("name").and_then(Value::as_str).unwrap_or_default();
    if name != NAME {
        let message = format!("there is no prompt `{}`", shorten(name));
        return Err(RpcError::invalid_params(message));
    }
    let task = params.get("arguments").and_then(|arguments| arguments.get("task"));
    let Some(task) = task.and_then(Value::as_str).filter(|task| !task.trim().is_empty()) else {
        return Err(RpcError::invalid_params("the argument `task` is missing or not a string"));
    };
    let text = format!(
        "Do the following in a sandbox: run all commands with run_command, and use read_file, write_file, edit_file and \
         list_files for files. Change nothing on this computer. Files that the task needs have to be written into the \
         sandbox first. At the end say what you did, and in which files of the sandbox the results are.\n\n{task}"
    );
    let message = json!({"role": "user", "content": {"type": "text", "text": text}});
    Ok(json!({"description": "Do a task in a sandbox", "messages": [message]}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn got(params: &Value) -> Result<Value, RpcError> {
        get(params.as_object().unwrap())
    }

    #[test]
    fn a_prompt_has_the_task_that_it_is_for() {
        let prompt = got(&json!({"name": NAME, "arguments": {"task": "build it"}})).unwrap();
        let text = prompt["messages"][0]["content"]["text"].as_str().unwrap();
        assert!(text.ends_with("\n\nbuild it"), "{text}");
    }

    #[test]
    fn a_prompt_without_its_task_is_refused() {
        for params in [json!({}), json!({"name": "x"}), json!({"name": NAME})] {
            assert_eq!(got(&params).unwrap_err().code, -32602);
        }
        assert!(got(&json!({"name": NAME, "arguments": {"task": 7}})).is_err());
    }
}
