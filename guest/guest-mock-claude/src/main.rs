//! A stand-in for the Claude Code CLI that runs its prompt with bash.

fn main() {}
