//! A blocking HTTP client of the platform's API, for the runner and the guest's programs.
//!
//! | to do | use |
//! |---|---|
//! | make requests that can be cancelled | [`HttpClient`], [`RequestCancellation`] |
//! | call the platform | [`PlatformClient`] |
//! | have several addresses of the platform | [`PlatformAddresses`] |
//! | retry a request | [`RetryPolicy`] |
//!
//! # Invariants
//!
//! - All calls block, none for ever: each request has limits, and [`RequestCancellation::cancel`] ends all requests.
//! - The certificate roots are the system's, read at the first TLS connection, and those of [`PlatformAddresses::trusting`].
//! - No error text holds a URL: a presigned URL is a secret.

mod address;
mod cancellation;
mod client;
mod error;
mod http;
mod resolver;
mod retry;

pub use address::PlatformAddresses;
pub use cancellation::RequestCancellation;
pub use client::{ClientType, PlatformClient, PlatformCredentials};
pub use error::{Error, Result, without_url};
pub use http::{HttpClient, HttpResponse, RequestLimits};
pub use resolver::SystemResolver;
pub use retry::{RetryPolicy, pause_after};

/// A random UUID of version 4, as the ID of a request that several attempts share.
pub fn random_request_id() -> String {
    uuid::Uuid::new_v4().to_string()
}
