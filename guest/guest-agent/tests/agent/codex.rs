//! Codex has its own command line, events and history.

use crate::harness::Fixture;

#[test]
fn codex_runs_and_its_session_is_saved() {
    let mut fixture = Fixture::new("the prompt\n--help");
    fixture.program(
        "codex",
        r#"printf '%s\n' "$@" > "$HOME/argv"; cat > "$HOME/stdin"
        folder=$HOME/.codex/sessions/2026/01/31; mkdir -p "$folder"
        echo '{"history":1}' > "$folder/rollout-2026-01-31-th-1.jsonl"
        echo '{"history":2}' > "$folder/rollout-2026-01-31-th-2.jsonl"
        say '{"type":"thread.started","thread_id":"th-1"}'
        say '{"type":"turn.completed"}'"#,
    );
    fixture.set("CLI_AGENT_TYPE", "codex");
    fixture.set("OPENAI_MODEL", "o9");
    fixture.set("VM0_RESUME_SESSION_ID", "th-1");
    let run = fixture.run();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let work = fixture.path("work");
    let expected = format!(
        "exec\n--json\n--dangerously-bypass-approvals-and-sandbox\n--skip-git-repo-check\n-C\n{}\n-m\no9\nresume\nth-1\n-\n",
        work.display()
    );
    assert_eq!(fixture.text("home/argv"), expected);
    assert_eq!(fixture.text("home/stdin"), "the prompt\n--help");
    assert_eq!(fixture.platform.uploads()[0].body, b"{\"history\":1}\n");
    let checkpoint = &fixture.platform.bodies("checkpoints")[0];
    assert_eq!(
        (&checkpoint["cliAgentType"], &checkpoint["cliAgentSessionId"]),
        (&"codex".into(), &"th-1".into())
    );
}
