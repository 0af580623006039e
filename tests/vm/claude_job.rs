//! The whole of it: the real Claude Code CLI, as a job of the embedded platform, in a VM of its own.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use platform::{Artifact, Client, Event, Job, RunId, Status, Submission};
use serde_json::json;

use crate::host::Host;
use crate::job::{holders, leave, log, serve_with};
use crate::model::{Block, Model, bash, say};
use crate::runner::{Runner, Running};

const CONFIG: &str = r#"
[runner]
cpu_overcommit = 32.0
max_concurrent = 2
[profiles.default]
image = "claude"
memory_mib = 1024
"#;

const SECRET: &str = "correct-horse-battery-staple";
const KEY: &str = "sk-ant-scripted-0123456789";

/// A job with its model and a secret, which the CLI has in its environment.
fn submission(model: &Model, prompt: &str) -> Submission {
    let (name, address) = model.pair();
    Submission {
        prompt: prompt.to_owned(),
        environment: BTreeMap::from([(name, address)]),
        secrets: BTreeMap::from([
            ("ANTHROPIC_API_KEY".to_owned(), KEY.to_owned()),
            ("DEPLOY_TOKEN".to_owned(), SECRET.to_owned()),
        ]),
        ..Submission::default()
    }
}

fn write_file(path: &str, content: &str) -> Block {
    let input = json!({"file_path": path, "content": content});
    Block::Tool { name: "Write".to_owned(), input }
}

/// A folder with what is easily lost: modes, links, empty folders.
fn repository(folder: &Path) {
    fs::create_dir_all(folder.join("src")).unwrap();
    fs::create_dir(folder.join("empty")).unwrap();
    fs::write(folder.join("src/main.c"), "int main() { return 1; }\n").unwrap();
    fs::write(folder.join("run.sh"), "#!/bin/sh\necho run\n").unwrap();
    fs::set_permissions(folder.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("src/main.c", folder.join("link")).unwrap();
}

fn run(runner: &Runner, submission: &Submission) -> (RunId, Job, Vec<Event>) {
    let client = Client::new(runner.state());
    let run = client.submit(submission).unwrap().run_id;
    let events: Vec<Event> = client.follow(run, -1).map(Result::unwrap).collect();
    let job = client.wait(run, None).unwrap();
    (run, job, events)
}

/// The folder came back as the job left it.
fn check_result(runner: &Runner, run: RunId) {
    let result = runner.state().join("result");
    runner.succeed(&["job", "artifact", "get", &run.to_string(), result.to_str().unwrap()]);
    let main = fs::read_to_string(result.join("src/main.c")).unwrap();
    assert_eq!(main, "int main() { return 0; }\n");
    let mode = |name: &str| fs::metadata(result.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("run.sh"), 0o750);
    assert!(result.join("empty").is_dir() && result.join("link").is_symlink());
    assert_eq!(fs::read_link(result.join("made/run")).unwrap(), Path::new("../run.sh"));
}

fn service(runner: &Runner) -> Running {
    serve_with(runner, CONFIG)
}

#[test]
#[ignore = "needs root, QEMU and the image `claude`"]
fn claude_edits_a_repository_and_resumes_in_another_vm() {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    let model = Model::serve(
        &runner.world,
        vec![
            vec![
                say("let me look"),
                bash("cat src/main.c && ls -la && echo \"token $DEPLOY_TOKEN\""),
            ],
            vec![write_file("/home/user/workspace/repo/src/main.c", "int main() { return 0; }\n")],
            vec![bash("chmod 750 run.sh && mkdir made && ln -s ../run.sh made/run && ls -R")],
            vec![say("it returns zero now")],
            vec![bash("cat src/main.c && git --version")],
            vec![say("still zero")],
        ],
    );
    let source = runner.state().join("repo");
    repository(&source);
    let service = service(&runner);
    let client = Client::new(runner.state());
    let folder = Artifact {
        name: "repo".into(),
        folder: source,
        mount_path: "/home/user/workspace/repo".into(),
    };
    let mount = client.upload(&folder).unwrap();

    let context = json!({"workingDir": "/home/user/workspace/repo"});
    let first = Submission {
        artifacts: vec![mount],
        context: context.as_object().unwrap().clone(),
        ..submission(&model, "make it return zero")
    };
    let (first, job, events) = run(&runner, &first);

    let shown: Vec<String> =
        events.iter().map(|event| serde_json::to_string(event).unwrap()).collect();
    assert_eq!((job.status, job.error), (Status::Completed, None), "{}\n{shown:#?}", log(&runner));
    assert_eq!(job.missing_events, 0);
    let sequences: Vec<_> = events.iter().map(|event| event.sequence).collect();
    assert!(sequences.iter().copied().eq(0..sequences.len() as i64), "{sequences:?}");
    let all = shown.join("\n");
    assert!(all.contains("token ***") && all.contains("it returns zero now"), "{all}");
    assert!(model.questions().iter().all(|question| question.key.as_deref() == Some(KEY)));

    check_result(&runner, first);
    let second = Submission {
        resume: Some(first),
        context: context.as_object().unwrap().clone(),
        ..submission(&model, "and now?")
    };
    let (second, job, events) = run(&runner, &second);
    let all = serde_json::to_string(&events).unwrap();
    assert_eq!((job.status, job.error), (Status::Completed, None), "{}\n{all}", log(&runner));
    assert!(all.contains("return 0") && all.contains("still zero"), "{all}");
    let sessions = [first, second].map(|run| client.checkpoint(run).unwrap().session_id);
    assert_eq!(sessions[0], sessions[1]);

    leave(service);
    // A session's history has to come back as it was, so it may hold what the agent printed.
    for secret in [KEY, SECRET] {
        let found = holders(runner.state(), secret);
        assert!(found.iter().all(|path| path.contains("/blobs/")), "{secret}: {found:?}");
    }
    runner.assert_nothing_left(&before);
}
