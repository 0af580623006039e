//! Runs AI-agent jobs, each in its own microVM.

fn main() {}
