//! Flags and positional arguments.

use crate::harness::Fixture;

#[test]
fn version_names_the_mock() {
    let run = Fixture::new().run(&["--version"]);
    assert_eq!(run.stdout, "0.0.0 (mock-claude)\n");
    assert_eq!(run.code, Some(0));
}

#[test]
fn help_lists_the_special_prompts() {
    let run = Fixture::new().run(&["--help"]);
    assert!(run.stdout.contains("@orphan-pipe"), "{}", run.stdout);
    assert_eq!(run.code, Some(0));
}

#[test]
fn an_unknown_flag_is_named_on_stderr() {
    let run = Fixture::new().run(&["--bogus", "true"]);
    assert_eq!(run.stderr, "error: cannot read the arguments: invalid option '--bogus'\n");
    assert_eq!(run.stdout, "");
    assert_eq!(run.code, Some(1));
}

#[test]
fn a_flag_without_its_value_is_an_error() {
    let run = Fixture::new().run(&["true", "--output-format"]);
    assert!(run.stderr.contains("--output-format"), "{}", run.stderr);
    assert_eq!(run.code, Some(1));
}

#[test]
fn an_unknown_output_format_is_an_error_that_lists_the_known_ones() {
    let run = Fixture::new().run(&["--output-format", "xml", "true"]);
    assert!(run.stderr.contains("text, json or stream-json"), "{}", run.stderr);
    assert_eq!(run.code, Some(1));
}

#[test]
fn an_unknown_input_format_is_an_error_that_lists_the_known_ones() {
    let run = Fixture::new().run(&["--input-format", "xml", "true"]);
    assert!(run.stderr.contains("text or stream-json"), "{}", run.stderr);
    assert_eq!(run.code, Some(1));
}

#[test]
fn all_flags_that_guest_agent_passes_are_accepted() {
    let run = Fixture::new().run(&[
        "--print",
        "--verbose",
        "--output-format",
        "text",
        "--input-format",
        "text",
        "--dangerously-skip-permissions",
        "--append-system-prompt-file",
        "/a/prompt.txt",
        "--append-system-prompt",
        "--be brief",
        "--disallowed-tools",
        "WebFetch",
        "WebSearch",
        "--tools",
        "Bash",
        "--allowed-tools",
        "Bash(git:*)",
        "Read",
        "--settings",
        "{}",
        "--",
        "echo taken",
    ]);
    assert_eq!(run.stdout, "taken\n");
    assert_eq!(run.stderr, "");
    assert_eq!(run.code, Some(0));
}

#[test]
fn values_may_be_joined_to_their_flags() {
    let run = Fixture::new().run(&["--output-format=text", "--tools=Bash,Read", "echo joined"]);
    assert_eq!(run.stdout, "joined\n");
}

#[test]
fn a_list_of_tools_may_be_an_empty_string() {
    let run = Fixture::new().run(&["--tools", "", "--", "echo no tools"]);
    assert_eq!(run.stdout, "no tools\n");
}

#[test]
fn a_list_of_tools_ends_at_the_next_flag() {
    let run = Fixture::new().run(&["--tools", "Bash", "Read", "--print", "echo prompt"]);
    assert_eq!(run.stdout, "prompt\n");
}

#[test]
fn a_list_of_tools_takes_a_prompt_without_a_separator() {
    let run = Fixture::new().run(&["--tools", "Bash", "echo lost"]);
    assert!(run.stderr.contains("no prompt"), "{}", run.stderr);
    assert_eq!(run.code, Some(1));
}

#[test]
fn the_last_positional_argument_is_the_prompt() {
    let run = Fixture::new().run(&["echo first", "--print", "echo last"]);
    assert_eq!(run.stdout, "last\n");
}

#[test]
fn a_prompt_after_the_separator_may_look_like_a_flag() {
    let run = Fixture::new().run(&["--print", "--", "--help"]);
    assert!(run.stdout.contains("--help: command not found"), "{}", run.stdout);
    assert_eq!(run.code, Some(127));
}
