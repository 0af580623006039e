//! Has the platform resolve the credentials of a job's APIs when the proxy asks for them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use intercept::{Credential, CredentialError, CredentialProvider};
use platform_client::{
    ClientType, PlatformClient, PlatformCredentials, RequestCancellation, RequestLimits,
    RetryPolicy,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::context::ExecutionContext;
use crate::error::Result;
use crate::source::PlatformAccess;

/// The limits of one attempt.
const LIMITS: RequestLimits = RequestLimits::within(Duration::from_secs(10));
/// No attempt starts after this time: the proxy waits 20 s for the answer.
const RETRY_TIME: Duration = Duration::from_secs(8);
/// The largest accepted answer, in bytes.
const MAX_ANSWER: u64 = 256 << 10;
/// The call that resolves credentials.
pub(super) const AUTH: &str = "/api/webhooks/agent/firewall/auth";

/// The authentication of an API: templates that contain references to secrets.
#[derive(Deserialize, Clone, Default, PartialEq, Eq)]
pub(super) struct Auth {
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    pub(super) base: Option<String>,
    pub(super) query: Option<BTreeMap<String, String>>,
}

/// Resolves credentials by calling the platform.
pub(super) struct Resolver {
    platform: PlatformClient,
    auths: Vec<Option<Auth>>,
    encrypted_secrets: Option<Value>,
    connectors: Option<Value>,
    vars: BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResolveRequest<'a> {
    encrypted_secrets: &'a Option<Value>,
    auth_headers: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_base: &'a Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_query: &'a Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_connector_map: &'a Option<Value>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    vars: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    force_refresh: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Resolved {
    headers: BTreeMap<String, String>,
    #[serde(default)]
    resolved_secrets: Vec<String>,
    base: Option<String>,
    query: Option<BTreeMap<String, String>>,
    expires_at: Option<u64>,
}

impl Resolver {
    pub(super) fn of(
        context: &ExecutionContext,
        access: &PlatformAccess,
        auths: Vec<Option<Auth>>,
    ) -> Result<Self> {
        let credentials = PlatformCredentials {
            addresses: access.addresses.clone(),
            token: context.sandbox_token.clone(),
            bypass: access.bypass.clone(),
            client_session: context.run_id.to_string(),
        };
        let platform = PlatformClient::of(
            ClientType::Runner,
            &credentials,
            LIMITS,
            &RequestCancellation::new(),
        )?;
        Ok(Self {
            platform: platform.with_answers_of(MAX_ANSWER),
            auths,
            encrypted_secrets: context.encrypted_secrets.clone(),
            connectors: context.secret_connector_map.clone(),
            vars: context.vars.clone(),
        })
    }
}

impl CredentialProvider for Resolver {
    fn get(&self, api: usize, force: bool) -> std::result::Result<Credential, CredentialError> {
        let refusal = |status, reason: &str| CredentialError { status, reason: reason.to_owned() };
        let auth = self.auths.get(api).and_then(Option::as_ref);
        let auth = auth.ok_or_else(|| refusal(424, "this API has no credential"))?;
        let request = ResolveRequest {
            encrypted_secrets: &self.encrypted_secrets,
            auth_headers: &auth.headers,
            auth_base: &auth.base,
            auth_query: &auth.query,
            secret_connector_map: &self.connectors,
            vars: &self.vars,
            force_refresh: force,
        };
        let retry =
            RetryPolicy { deadline: Some(Instant::now() + RETRY_TIME), ..RetryPolicy::usual() };
        let resolved = self.platform.post_again(&retry, AUTH, &request);
        let resolved: Resolved = resolved.map_err(|error| match error.status() {
            Some(402) => refusal(402, "there is no credit left for this API's credential"),
            Some(424) => refusal(424, "this API's credential is not configured"),
            // The platform's message may quote the request.
            _ => refusal(502, "the platform cannot resolve this API's credential"),
        })?;
        Ok(Credential {
            headers: resolved.headers,
            query: resolved.query.unwrap_or_default(),
            base: resolved.base,
            resolved_secrets: resolved.resolved_secrets,
            expires_at: resolved.expires_at,
        })
    }
}
