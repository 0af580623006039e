//! Secrets that stay on the host: a VM gets a placeholder, which the proxy replaces by the value in
//! requests to certain hosts.

use std::collections::BTreeMap;

use intercept::Secret;

use crate::error::{Result, Usage};

/// `[NAME=]HOST`: a host that may receive a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretHost {
    name: Option<String>,
    host: String,
}

impl SecretHost {
    /// The name may be omitted if there is only one secret.
    pub fn parse(text: &str) -> std::result::Result<Self, &'static str> {
        let (name, host) = match text.split_once('=') {
            Some((name, host)) => (Some(name.to_owned()), host),
            None => (None, text),
        };
        let good = |c: char| c.is_ascii_alphanumeric() || ".-_:*".contains(c);
        if host.is_empty() || !host.chars().all(good) || name.as_deref() == Some("") {
            return Err("expected HOST or NAME=HOST, with a host like api.example.com");
        }
        Ok(Self { name, host: host.to_ascii_lowercase() })
    }
}

/// Removes the secrets that are restricted to hosts from `secrets`. The VM gets the others itself.
pub fn restrict_to_hosts(
    secrets: &mut BTreeMap<String, String>,
    hosts_of: &[SecretHost],
) -> Result<Vec<Secret>> {
    let mut hosts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for one in hosts_of {
        let only = || (secrets.len() == 1).then(|| secrets.keys().next().cloned()).flatten();
        let name = one.name.clone().or_else(only).ok_or(Usage::ForWithoutSecret)?;
        if !secrets.contains_key(&name) {
            return Err(Usage::NoSuchSecret { name }.into());
        }
        hosts.entry(name).or_default().push(one.host.clone());
    }
    let mut restricted = Vec::new();
    for (name, hosts) in hosts {
        if let Some(value) = secrets.remove(&name) {
            restricted.push(Secret { placeholder: placeholder(), name, value, hosts });
        }
    }
    Ok(restricted)
}

/// A random text that no request contains by chance.
fn placeholder() -> String {
    format!("placeholder-{}", uuid::Uuid::new_v4().simple())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(names: &[&str]) -> BTreeMap<String, String> {
        names.iter().map(|name| ((*name).to_owned(), format!("value of {name}"))).collect()
    }

    fn hosts(texts: &[&str]) -> Vec<SecretHost> {
        texts.iter().map(|text| SecretHost::parse(text).unwrap()).collect()
    }

    #[test]
    fn a_secret_with_hosts_is_removed_and_the_others_stay() {
        let mut given = secrets(&["A", "B"]);
        let restricted =
            restrict_to_hosts(&mut given, &hosts(&["A=x.org", "A=*.Y.org:8443"])).unwrap();
        assert_eq!(
            (restricted.len(), restricted[0].hosts.join(" ").as_str()),
            (1, "x.org *.y.org:8443")
        );
        assert_eq!(restricted[0].value, "value of A");
        assert_eq!(given.keys().collect::<Vec<_>>(), ["B"]);
    }

    #[test]
    fn the_name_may_be_omitted_if_there_is_one_secret() {
        assert_eq!(
            restrict_to_hosts(&mut secrets(&["A"]), &hosts(&["x.org"])).unwrap()[0].name,
            "A"
        );
        assert!(restrict_to_hosts(&mut secrets(&["A", "B"]), &hosts(&["x.org"])).is_err());
        assert!(restrict_to_hosts(&mut secrets(&["A"]), &hosts(&["C=x.org"])).is_err());
    }

    #[test]
    fn a_malformed_host_is_rejected() {
        for text in ["", "A=", "=x.org", "x org", "https://x.org"] {
            assert!(SecretHost::parse(text).is_err(), "{text}");
        }
    }
}
