//! A job's interception policy and credentials, from its context.
//!
//! | field of the context | use |
//! |---|---|
//! | `firewalls`, `networkPolicies` | added to the profile's policy |
//! | `encryptedSecrets`, `secretConnectorMap`, `vars` | sent to the platform when the proxy asks for credentials |
//! | `captureNetworkBodies` | the network log contains the beginnings of bodies |
//! | `heldSecrets` | an extension of the contract: secrets by name, each with hosts; the job gets placeholders |

mod resolver;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use intercept::{
    Api, CredentialProvider, Firewall, Grants, InterceptionConfig, NetworkLogFile, Permission,
    Policy, Reachable, Secret,
};
use sandbox::Interception;
use serde::Deserialize;
use serde_json::Value;

use self::resolver::{Auth, Resolver};
use super::context::ExecutionContext;
use super::endpoint;
use super::job::Job;
use super::source::PlatformAccess;
use crate::error::{Error, Result};

/// A job's interception policy, with its secrets and credentials.
pub(super) struct JobPolicy {
    pub(super) policy: Policy,
    pub(super) held_secrets: Vec<Secret>,
    pub(super) credentials: Option<Arc<dyn CredentialProvider>>,
}

/// A firewall in one of the contract's two forms.
#[derive(Deserialize)]
#[serde(untagged)]
enum FirewallEntry {
    Inline { firewall: FirewallSpec },
    Plain(FirewallSpec),
}

#[derive(Deserialize)]
struct FirewallSpec {
    name: String,
    #[serde(rename = "ref")]
    reference: Option<String>,
    apis: Vec<ApiEntry>,
}

#[derive(Deserialize)]
struct ApiEntry {
    base: String,
    auth: Option<Auth>,
    permissions: Option<Vec<Permission>>,
}

/// A secret of which the job gets only a placeholder.
#[derive(Deserialize)]
struct HeldSecret {
    placeholder: String,
    hosts: Vec<String>,
}

/// The interception of a job's traffic, if its profile has one, and the context without the values of held
/// secrets.
pub(super) fn intercept(
    job: &Job,
    context: &ExecutionContext,
    reachable: &[Reachable],
    record: Option<&Path>,
) -> Result<(ExecutionContext, Option<Interception>)> {
    let mut context = context.clone();
    let Some(base) = &job.profile.interception else {
        return match context.held_secrets {
            None => Ok((context, None)),
            Some(_) => Err(Error::SecretsNotIntercepted),
        };
    };
    let hidden: Vec<_> =
        context.secret_values.iter().chain([&context.sandbox_token]).cloned().collect();
    let JobPolicy { policy, held_secrets, credentials } =
        JobPolicy::of(&mut context, &base.requests, job.shared.source.access(), reachable)?;
    let log =
        record.map(NetworkLogFile::open).transpose().map_err(egress::Error::from)?.map(Arc::new);
    let bodies = context.capture_network_bodies;
    let private = platform_hosts(&context, job.shared.source.access(), authority);
    let interception = job.shared.proxies.interception(move |proxy| {
        let config =
            InterceptionConfig::new(proxy, policy.clone()).with_secrets(held_secrets.clone());
        let config = config.hiding(hidden.clone()).with_credentials(credentials.clone());
        let config = config.with_log(log.clone()).with_bodies(bodies);
        config.with_private_hosts(private.clone())
    });
    Ok((context, Some(interception)))
}

impl JobPolicy {
    /// Combines the profile's policy with the context, and replaces the values of held secrets in the context by
    /// their placeholders.
    pub(super) fn of(
        context: &mut ExecutionContext,
        base: &Policy,
        access: &PlatformAccess,
        reachable: &[Reachable],
    ) -> Result<Self> {
        let mut policy = base.clone();
        let mut auths = Vec::new();
        for entry in std::mem::take(&mut context.firewalls) {
            policy.firewalls.push(parse_firewall(entry, context, &mut auths)?);
        }
        // The job's platform and its archives.
        policy.allow.extend(platform_hosts(context, access, name_and_port));
        policy.allow.extend(reachable.iter().map(|one| format!("{}:{}", one.host, one.port)));
        policy.reachable.extend_from_slice(reachable);
        let count = base.firewalls.iter().map(|firewall| firewall.apis.len()).sum();
        let has_auth = auths.iter().any(Option::is_some);
        let credentials = has_auth.then(|| {
            let auths = std::iter::repeat_n(None, count).chain(auths).collect();
            Resolver::of(context, access, auths)
                .map(|one| Arc::new(one) as Arc<dyn CredentialProvider>)
        });
        Ok(Self {
            policy,
            held_secrets: take_held_secrets(context)?,
            credentials: credentials.transpose()?,
        })
    }
}

fn invalid(what: &'static str) -> impl FnOnce(serde_json::Error) -> Error {
    // serde's message may quote the value.
    move |_| Error::NetworkContext { what }
}

fn parse_firewall(
    entry: Value,
    context: &ExecutionContext,
    auths: &mut Vec<Option<Auth>>,
) -> Result<Firewall> {
    let entry = serde_json::from_value(entry).map_err(invalid("firewalls"))?;
    let (FirewallEntry::Inline { firewall } | FirewallEntry::Plain(firewall)) = entry;
    let key = firewall.reference.as_ref().unwrap_or(&firewall.name);
    let grants = context.network_policies.get(key).cloned();
    let grants: Option<Grants> =
        grants.map(serde_json::from_value).transpose().map_err(invalid("networkPolicies"))?;
    let mut apis = Vec::new();
    for api in firewall.apis {
        let auth = api.auth.filter(|auth| *auth != Auth::default());
        apis.push(Api {
            base: with_variables(&api.base, &context.vars),
            has_credential: auth.is_some(),
            permissions: api.permissions.unwrap_or_default(),
        });
        auths.push(auth);
    }
    Ok(Firewall { name: firewall.name, policy: grants, apis })
}

/// Replaces `${{ vars.NAME }}` by the variable's value. An unknown variable becomes `${{}}`, which matches no host.
fn with_variables(base: &str, vars: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    let mut rest = base;
    while let Some((before, after)) = rest.split_once("${{") {
        text.push_str(before);
        let Some((name, after)) = after.split_once("}}") else {
            rest = "${{";
            break;
        };
        match name.trim().strip_prefix("vars.").and_then(|name| vars.get(name)) {
            Some(value) => text.push_str(value),
            None => text.push_str("${{}}"),
        }
        rest = after;
    }
    text + rest
}

/// The hosts of the platform and of the job's object store, extracted from their URLs by `host_of`.
fn platform_hosts(
    context: &ExecutionContext,
    access: &PlatformAccess,
    host_of: fn(&str) -> Option<String>,
) -> Vec<String> {
    let own = access.guest_urls.iter().map(String::as_str);
    let urls = endpoint::store_urls(context).into_iter().chain(own);
    let mut hosts: Vec<_> = urls.filter_map(host_of).collect();
    hosts.sort();
    hosts.dedup();
    hosts
}

/// The `host:port` of a URL, or its host if it has no port.
fn authority(url: &str) -> Option<String> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    rest.split(['/', '?', '#']).next().map(str::to_ascii_lowercase)
}

/// As [`authority`], but `None` if the host is an address.
fn name_and_port(url: &str) -> Option<String> {
    let is_name = |authority: &String| {
        let host = authority.split(':').next().unwrap_or_default();
        host.contains(|c: char| c.is_ascii_alphabetic())
    };
    authority(url).filter(is_name)
}

/// Replaces the values of held secrets in the context by their placeholders, and returns the secrets.
fn take_held_secrets(context: &mut ExecutionContext) -> Result<Vec<Secret>> {
    let Some(held) = context.held_secrets.take().filter(|held| !held.is_null()) else {
        return Ok(Vec::new());
    };
    let held: BTreeMap<String, HeldSecret> =
        serde_json::from_value(held).map_err(invalid("heldSecrets"))?;
    let mut secrets = Vec::new();
    for (name, HeldSecret { placeholder, hosts }) in held {
        let slot = context.environment.get_mut(&name);
        let slot = slot.ok_or(Error::NetworkContext { what: "heldSecrets" })?;
        let value = std::mem::replace(slot, placeholder.clone());
        context.secret_values.retain(|other| *other != value);
        secrets.push(Secret { name, placeholder, value, hosts });
    }
    Ok(secrets)
}

#[cfg(test)]
mod tests {
    use guest_test::{Reply, Server};
    use serde_json::json;

    use super::resolver::AUTH;
    use super::*;
    use crate::context::tests::minimal_context;

    fn access(url: &str) -> PlatformAccess {
        PlatformAccess::at(url, url)
    }

    fn job_policy(more: Value, url: &str) -> Result<(JobPolicy, ExecutionContext)> {
        let mut value = minimal_context();
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut context: ExecutionContext = serde_json::from_value(value).unwrap();
        let (host, port) = ("minio.corp".to_owned(), 9000);
        let reachable = Reachable { host, port, addresses: vec![[10, 1, 2, 3].into()] };
        let policy = JobPolicy::of(&mut context, &Policy::none(), &access(url), &[reachable])?;
        Ok((policy, context))
    }

    fn firewalls() -> Value {
        json!({
            "vars": {"TENANT": "acme"},
            "encryptedSecrets": "sealed",
            "firewalls": [
                {"name": "open", "apis": [{"base": "https://a.org", "auth": {"headers": {}}}]},
                {"kind": "inline", "firewall": {"name": "github", "ref": "gh", "apis": [{
                    "base": "https://${{ vars.TENANT }}.github.com",
                    "auth": {"headers": {"authorization": "Bearer ${{ secrets.T }}"}},
                    "permissions": [{"name": "read", "rules": ["GET /x"]}],
                }]}},
            ],
            "networkPolicies": {"gh": {"allow": ["read"], "unknownPolicy": "ask"}},
        })
    }

    #[test]
    fn firewalls_of_the_context_get_its_policies_and_variables() {
        let (policy, _) = job_policy(firewalls(), "https://platform.example").unwrap();
        let [open, github] = &policy.policy.firewalls[..] else { panic!("not two") };
        assert!(open.policy.is_none() && !open.apis[0].has_credential);
        assert_eq!(github.policy.as_ref().unwrap().allow, ["read"]);
        assert_eq!(github.apis[0].base, "https://acme.github.com");
        assert!(github.apis[0].has_credential);
        assert_eq!(policy.policy.allow, ["platform.example", "minio.corp:9000"]);
        assert_eq!(policy.policy.reachable[0].host, "minio.corp");
    }

    #[test]
    fn the_platform_resolves_the_credentials_of_the_requested_api() {
        let server = Server::start(|request| {
            if request.json()["forceRefresh"] == true {
                return Reply::refusal(424, "sealed");
            }
            Reply::json(&json!({
                "headers": {"authorization": "Bearer real"},
                "resolvedSecrets": ["T"], "expiresAt": 9,
            }))
        });
        let (policy, _) = job_policy(firewalls(), &server.url()).unwrap();
        let credentials = policy.credentials.unwrap();

        let grant = credentials.get(1, false).unwrap();
        let refusal = credentials.get(1, true).unwrap_err();

        assert_eq!(grant.headers["authorization"], "Bearer real");
        assert_eq!(grant.expires_at, Some(9));
        assert_eq!(credentials.get(0, false).unwrap_err().status, 424);
        assert_eq!(refusal.status, 424);
        assert!(!refusal.reason.contains("sealed"));
        let asked = &server.requests_to(AUTH)[0];
        assert_eq!(asked.header("authorization"), Some("Bearer token-of-the-run"));
        assert_eq!(asked.json()["encryptedSecrets"], "sealed");
        assert_eq!(asked.json()["authHeaders"]["authorization"], "Bearer ${{ secrets.T }}");
    }

    #[test]
    fn a_credential_request_is_retried_after_a_transient_failure() {
        let replies = std::sync::Mutex::new(vec![
            Reply::json(&json!({"headers": {"authorization": "Bearer real"}})),
            Reply::dropped(),
            Reply::refusal(500, "oops").with("retry-after", "0"),
        ]);
        let server = Server::start(move |_| replies.lock().unwrap().pop().unwrap());
        let (policy, _) = job_policy(firewalls(), &server.url()).unwrap();

        let grant = policy.credentials.unwrap().get(1, false).unwrap();

        assert_eq!(grant.headers["authorization"], "Bearer real");
        assert_eq!(server.requests_to(AUTH).len(), 3);
    }

    #[test]
    fn hosts_of_the_platform_and_its_object_store_may_be_addresses() {
        let mut value = minimal_context();
        let archive = json!({"archiveUrl": "https://Store.example/a?X-Amz-Signature=s"});
        value["storageManifest"] = json!({"storageMounts": [archive]});
        let context: ExecutionContext = serde_json::from_value(value).unwrap();
        let hosts = |host_of| platform_hosts(&context, &access("http://203.0.113.5:3000"), host_of);
        assert_eq!(hosts(authority), ["203.0.113.5:3000", "store.example"]);
        assert_eq!(hosts(name_and_port), ["store.example"]);
    }

    #[test]
    fn a_held_secret_is_replaced_by_its_placeholder() {
        let more = json!({
            "environment": {"KEY": "the-value", "OTHER": "x"},
            "secretValues": ["the-value", "other-secret"],
            "heldSecrets": {"KEY": {"placeholder": "placeholder-1", "hosts": ["a.org"]}},
        });
        let (policy, context) = job_policy(more, "https://platform.example").unwrap();
        assert_eq!(policy.held_secrets[0].value, "the-value");
        assert_eq!(context.environment["KEY"], "placeholder-1");
        assert_eq!(context.secret_values, ["other-secret"]);
        assert!(context.held_secrets.is_none());
    }

    #[test]
    fn an_invalid_firewall_is_refused_without_quoting_it() {
        let more = json!({"firewalls": [{"name": "x", "apis": "the-value"}]});
        let error = job_policy(more, "https://platform.example").err().unwrap();
        assert!(error.chain().contains("firewalls") && !error.chain().contains("the-value"));
    }
}
