//! What a job may do on the network, as its context says it, and the credentials for it.
//!
//! | in the context | what becomes of it |
//! |---|---|
//! | `firewalls`, `networkPolicies` | added to the profile's policy |
//! | `encryptedSecrets`, `secretConnectorMap`, `vars` | given back to the platform, when the proxy asks for credentials |
//! | `captureNetworkBodies` | the beginnings of bodies are on record |
//! | `heldSecrets` | ours: names of secrets, each with hosts; the job gets placeholders of them |

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
use super::context::Context;
use super::endpoint;
use super::job::Job;
use super::source::Access;
use crate::error::{Error, Result};

/// What a job is let pass.
pub(super) struct Pass {
    pub(super) policy: Policy,
    pub(super) held: Vec<Secret>,
    pub(super) credentials: Option<Arc<dyn CredentialProvider>>,
}

/// A firewall, as the contract has it; plain or inline.
#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Inline { firewall: Plain },
    Plain(Plain),
}

#[derive(Deserialize)]
struct Plain {
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

/// A secret that the job has a placeholder of.
#[derive(Deserialize)]
struct Held {
    placeholder: String,
    hosts: Vec<String>,
}

/// Who stands between a job and the internet, if its profile wants that, and the context as the job may
/// know it.
pub(super) fn intercept(
    job: &Job,
    context: &Context,
    reachable: &[Reachable],
    record: Option<&Path>,
) -> Result<(Context, Option<Interception>)> {
    let mut context = context.clone();
    let Some(egress) = &job.profile.egress else {
        return match context.held_secrets {
            None => Ok((context, None)),
            Some(_) => Err(Error::HeldInVain),
        };
    };
    let hidden: Vec<_> =
        context.secret_values.iter().chain([&context.sandbox_token]).cloned().collect();
    let Pass { policy, held, credentials } =
        Pass::of(&mut context, &egress.policy, job.crew.source.access(), reachable)?;
    let record =
        record.map(NetworkLogFile::open).transpose().map_err(Error::Intercept)?.map(Arc::new);
    let bodies = context.capture_network_bodies;
    let private = platform_hosts(&context, job.crew.source.access(), authority);
    let interception = job.crew.gate.interception(move |proxy| {
        let guard = InterceptionConfig::new(proxy, policy.clone()).with_secrets(held.clone());
        let guard = guard.hiding(hidden.clone()).with_credentials(credentials.clone());
        let guard = guard.with_log(record.clone()).with_bodies(bodies);
        guard.with_private_hosts(private.clone())
    });
    Ok((context, Some(interception)))
}

impl Pass {
    /// What the profile's policy and the context say together. The values of secrets that are held are
    /// taken out of the context.
    pub(super) fn of(
        context: &mut Context,
        base: &Policy,
        access: &Access,
        reachable: &[Reachable],
    ) -> Result<Self> {
        let mut policy = base.clone();
        let mut auths = Vec::new();
        for entry in std::mem::take(&mut context.firewalls) {
            policy.firewalls.push(understand(entry, context, &mut auths)?);
        }
        // The job's own platform, and what it has there.
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
        Ok(Self { policy, held: hold(context)?, credentials: credentials.transpose()? })
    }
}

fn bad(what: &'static str) -> impl FnOnce(serde_json::Error) -> Error {
    // Its text could repeat what is in there.
    move |_| Error::NetworkContext { what }
}

fn understand(entry: Value, context: &Context, auths: &mut Vec<Option<Auth>>) -> Result<Firewall> {
    let entry = serde_json::from_value(entry).map_err(bad("firewalls"))?;
    let (Entry::Inline { firewall } | Entry::Plain(firewall)) = entry;
    let key = firewall.reference.as_ref().unwrap_or(&firewall.name);
    let grants = context.network_policies.get(key).cloned();
    let grants: Option<Grants> =
        grants.map(serde_json::from_value).transpose().map_err(bad("networkPolicies"))?;
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

/// `${{ vars.NAME }}` is the variable's value; one that is unknown stays, and is no host.
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

/// The hosts that guests need in order to be jobs at all, as `host_of` finds them in URLs.
fn platform_hosts(
    context: &Context,
    access: &Access,
    host_of: fn(&str) -> Option<String>,
) -> Vec<String> {
    let urls = endpoint::archives(context).into_iter().chain([access.guest_url.as_str()]);
    let mut hosts: Vec<_> = urls.filter_map(host_of).collect();
    hosts.sort();
    hosts.dedup();
    hosts
}

/// Host and port, as a policy names them.
fn authority(url: &str) -> Option<String> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    rest.split(['/', '?', '#']).next().map(str::to_ascii_lowercase)
}

/// The same, unless the host is an address, which needs no name.
fn name_and_port(url: &str) -> Option<String> {
    let is_name = |authority: &String| {
        let host = authority.split(':').next().unwrap_or_default();
        host.contains(|c: char| c.is_ascii_alphabetic())
    };
    authority(url).filter(is_name)
}

/// Takes the values of held secrets out of the context; their placeholders take their place.
fn hold(context: &mut Context) -> Result<Vec<Secret>> {
    let Some(held) = context.held_secrets.take().filter(|held| !held.is_null()) else {
        return Ok(Vec::new());
    };
    let held: BTreeMap<String, Held> = serde_json::from_value(held).map_err(bad("heldSecrets"))?;
    let mut secrets = Vec::new();
    for (name, Held { placeholder, hosts }) in held {
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
    use crate::service::context::tests::least;

    fn access(url: &str) -> Access {
        Access {
            guest_url: url.into(),
            url: url.into(),
            service: None,
            bypass: None,
            reachable: Vec::new(),
        }
    }

    fn pass(more: Value, url: &str) -> Result<(Pass, Context)> {
        let mut value = least();
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut context: Context = serde_json::from_value(value).unwrap();
        let (host, port) = ("minio.corp".to_owned(), 9000);
        let reachable = Reachable { host, port, addresses: vec![[10, 1, 2, 3].into()] };
        let pass = Pass::of(&mut context, &Policy::none(), &access(url), &[reachable])?;
        Ok((pass, context))
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
    fn firewalls_are_those_of_the_context_with_its_policies_and_variables() {
        let (pass, _) = pass(firewalls(), "https://platform.example").unwrap();
        let [open, github] = &pass.policy.firewalls[..] else { panic!("not two") };
        assert!(open.policy.is_none() && !open.apis[0].has_credential);
        assert_eq!(github.policy.as_ref().unwrap().allow, ["read"]);
        assert_eq!(github.apis[0].base, "https://acme.github.com");
        assert!(github.apis[0].has_credential);
        assert_eq!(pass.policy.allow, ["platform.example", "minio.corp:9000"]);
        assert_eq!(pass.policy.reachable[0].host, "minio.corp");
    }

    #[test]
    fn credentials_are_resolved_by_the_platform_for_the_api_that_is_asked_for() {
        let server = Server::start(|request| match request.json()["forceRefresh"] == true {
            true => Reply::refusal(424, "sealed"),
            false => Reply::json(&json!({
                "headers": {"authorization": "Bearer real"},
                "resolvedSecrets": ["T"], "expiresAt": 9,
            })),
        });
        let (pass, _) = pass(firewalls(), &server.url()).unwrap();
        let credentials = pass.credentials.unwrap();

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
    fn a_question_for_credentials_is_asked_again_when_the_platform_fails_for_a_moment() {
        let replies = std::sync::Mutex::new(vec![
            Reply::json(&json!({"headers": {"authorization": "Bearer real"}})),
            Reply::dropped(),
            Reply::refusal(500, "oops").with("retry-after", "0"),
        ]);
        let server = Server::start(move |_| replies.lock().unwrap().pop().unwrap());
        let (pass, _) = pass(firewalls(), &server.url()).unwrap();

        let grant = pass.credentials.unwrap().get(1, false).unwrap();

        assert_eq!(grant.headers["authorization"], "Bearer real");
        assert_eq!(server.requests_to(AUTH).len(), 3);
    }

    #[test]
    fn the_platform_and_its_object_store_are_private_also_by_their_addresses() {
        let mut value = least();
        let archive = json!({"archiveUrl": "https://Store.example/a?X-Amz-Signature=s"});
        value["storageManifest"] = json!({"storageMounts": [archive]});
        let context: Context = serde_json::from_value(value).unwrap();
        let hosts = |host_of| platform_hosts(&context, &access("http://203.0.113.5:3000"), host_of);
        assert_eq!(hosts(authority), ["203.0.113.5:3000", "store.example"]);
        assert_eq!(hosts(name_and_port), ["store.example"]);
    }

    #[test]
    fn a_secret_that_is_held_leaves_the_context() {
        let more = json!({
            "environment": {"KEY": "the-value", "OTHER": "x"},
            "secretValues": ["the-value", "other-secret"],
            "heldSecrets": {"KEY": {"placeholder": "placeholder-1", "hosts": ["a.org"]}},
        });
        let (pass, context) = pass(more, "https://platform.example").unwrap();
        assert_eq!(pass.held[0].value, "the-value");
        assert_eq!(context.environment["KEY"], "placeholder-1");
        assert_eq!(context.secret_values, ["other-secret"]);
        assert!(context.held_secrets.is_none());
    }

    #[test]
    fn what_is_not_understood_is_refused_and_not_repeated() {
        let more = json!({"firewalls": [{"name": "x", "apis": "the-value"}]});
        let error = pass(more, "https://platform.example").err().unwrap();
        assert!(error.chain().contains("firewalls") && !error.chain().contains("the-value"));
    }
}
