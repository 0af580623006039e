//! Processes born into a cgroup, watched by pidfd, killed whole.
