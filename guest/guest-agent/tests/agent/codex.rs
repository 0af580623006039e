//! Codex: another command line, other events, another history.

use crate::harness::Place;

#[test]
fn codex_runs_and_its_session_is_kept() {
    let mut place = Place::new("the prompt\n--help");
    place.program(
        "codex",
        r#"printf '%s\n' "$@" > "$HOME/argv"; cat > "$HOME/stdin"
        folder=$HOME/.codex/sessions/2026/01/31; mkdir -p "$folder"
        echo '{"history":1}' > "$folder/rollout-2026-01-31-th-1.jsonl"
        echo '{"history":2}' > "$folder/rollout-2026-01-31-th-2.jsonl"
        say '{"type":"thread.started","thread_id":"th-1"}'
        say '{"type":"turn.completed"}'"#,
    );
    place.set("CLI_AGENT_TYPE", "codex");
    place.set("OPENAI_MODEL", "o9");
    place.set("VM0_RESUME_SESSION_ID", "th-1");
    let run = place.run();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let work = place.path("work");
    let expected = format!(
        "exec\n--json\n--dangerously-bypass-approvals-and-sandbox\n--skip-git-repo-check\n-C\n{}\n-m\no9\nresume\nth-1\n-\n",
        work.display()
    );
    assert_eq!(place.text("home/argv"), expected);
    assert_eq!(place.text("home/stdin"), "the prompt\n--help");
    assert_eq!(place.platform.uploads()[0].body, b"{\"history\":1}\n");
    let checkpoint = &place.platform.bodies("checkpoints")[0];
    assert_eq!(
        (&checkpoint["cliAgentType"], &checkpoint["cliAgentSessionId"]),
        (&"codex".into(), &"th-1".into())
    );
}
