//! The sub-commands, one file each, with the flags (`Arguments`) and the function that runs it (`run`).

pub(crate) mod bench;
pub(crate) mod cp;
pub(crate) mod doctor;
pub(crate) mod exec;
pub(crate) mod gc;
pub(crate) mod image;
#[cfg(feature = "platform")]
pub(crate) mod job;
pub(crate) mod key;
pub(crate) mod logs;
pub(crate) mod mcp;
pub(crate) mod net;
pub(crate) mod ps;
pub(crate) mod run;
pub(crate) mod sandbox;
#[cfg(feature = "platform")]
pub(crate) mod serve;
pub(crate) mod ssh_config;
pub(crate) mod ssh_host_key;
pub(crate) mod ssh_proxy;
pub(crate) mod start;
pub(crate) mod stop;
#[cfg(feature = "platform")]
pub(crate) mod token;
pub(crate) mod wait;
