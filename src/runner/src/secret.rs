//! Secrets of the command line.

use std::collections::BTreeMap;

use crate::error::{Result, Usage};
use crate::value::Variable;

/// The values of secrets by name. A name alone takes the value from the environment.
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
