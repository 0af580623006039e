//! Secrets that the host holds: a VM has a placeholder of each, and the proxy sends the value instead,
//! to the hosts that it is for.

use std::collections::BTreeMap;

use intercept::Secret;

use crate::error::{Result, Usage};
use crate::value::{Refused, Variable};

/// `[NAME=]HOST`: whom a secret is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct For {
    name: Option<String>,
    host: String,
}

impl For {
    /// The name of a secret may be left out where there is one only.
    pub(crate) fn parse(text: &str) -> std::result::Result<Self, Refused> {
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

/// The values of secrets, by their names; of one that is named only, this process has it.
pub(crate) fn values(variables: &[Variable]) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for secret in variables {
        let secret = secret.clone().named().ok_or(Usage::NamelessVariable)?;
        let name = secret.name.to_string_lossy().into_owned();
        let value = secret.value.or_else(|| std::env::var_os(&secret.name));
        let value = value.and_then(|value| value.into_string().ok());
        let value = value.ok_or_else(|| Usage::SecretNotSet { name: name.clone() })?;
        all.insert(name, value);
    }
    Ok(all)
}

/// Takes those that are for hosts out of `secrets`: what is left, the VM is to have itself.
pub(crate) fn hold(secrets: &mut BTreeMap<String, String>, for_: &[For]) -> Result<Vec<Secret>> {
    let mut hosts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for one in for_ {
        let only = || (secrets.len() == 1).then(|| secrets.keys().next().cloned()).flatten();
        let name = one.name.clone().or_else(only).ok_or(Usage::ForWithoutSecret)?;
        if !secrets.contains_key(&name) {
            return Err(Usage::NoSuchSecret { name }.into());
        }
        hosts.entry(name).or_default().push(one.host.clone());
    }
    let mut held = Vec::new();
    for (name, hosts) in hosts {
        if let Some(value) = secrets.remove(&name) {
            held.push(Secret { placeholder: placeholder(), name, value, hosts });
        }
    }
    Ok(held)
}

/// What nobody could mean by chance.
fn placeholder() -> String {
    format!("placeholder-{}", uuid::Uuid::new_v4().simple())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(names: &[&str]) -> BTreeMap<String, String> {
        names.iter().map(|name| ((*name).to_owned(), format!("value of {name}"))).collect()
    }

    fn hosts(texts: &[&str]) -> Vec<For> {
        texts.iter().map(|text| For::parse(text).unwrap()).collect()
    }

    #[test]
    fn a_secret_for_hosts_is_held_and_the_others_are_not() {
        let mut given = secrets(&["A", "B"]);
        let held = hold(&mut given, &hosts(&["A=x.org", "A=*.Y.org:8443"])).unwrap();
        assert_eq!((held.len(), held[0].hosts.join(" ").as_str()), (1, "x.org *.y.org:8443"));
        assert_eq!(held[0].value, "value of A");
        assert_eq!(given.keys().collect::<Vec<_>>(), ["B"]);
    }

    #[test]
    fn the_name_may_be_left_out_where_there_is_one_secret() {
        assert_eq!(hold(&mut secrets(&["A"]), &hosts(&["x.org"])).unwrap()[0].name, "A");
        assert!(hold(&mut secrets(&["A", "B"]), &hosts(&["x.org"])).is_err());
        assert!(hold(&mut secrets(&["A"]), &hosts(&["C=x.org"])).is_err());
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in ["", "A=", "=x.org", "x org", "https://x.org"] {
            assert!(For::parse(text).is_err(), "{text}");
        }
    }
}
