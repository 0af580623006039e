//! Where a database is: a connection string of libpq, one set of parameters per host.
//!
//! libpq would try the hosts of a string itself, but has no deadline for each of them where its calls do
//! not block. So each host is a connection attempt of its own.

use std::ffi::CString;

use super::sys;

/// What a connection string may leave out: `target_session_attrs` follows a failover to the new
/// primary, and the TCP settings find a dead server.
const DEFAULTS: [(&str, &str); 5] = [
    ("application_name", "sandbox-runner"),
    ("target_session_attrs", "read-write"),
    ("keepalives_idle", "10"),
    ("keepalives_interval", "5"),
    ("keepalives_count", "3"),
];

/// A parsed connection string.
pub(super) struct Target {
    /// The parameters of each host.
    pub(super) hosts: Vec<Vec<(CString, CString)>>,
    /// How messages name the database: without its password.
    pub(super) name: String,
    has_password: bool,
}

impl Target {
    /// Parses a URL or `key=value` pairs. The error never has the string, as that may have a password.
    pub(super) fn parse(connection: &str) -> Result<Self, String> {
        let text = CString::new(connection).map_err(|_| "it has a NUL byte".to_owned())?;
        // libpq's message may quote a part of the string.
        let given = sys::parse(&text).map_err(|_| {
            "expected `postgresql://[USER@]HOST[:PORT]/DATABASE[?…]` or `key=value` pairs"
                .to_owned()
        })?;
        let value = |name: &str| given.iter().find(|(key, _)| key == name).map(|(_, value)| value);
        let is_set = |name: &str| value(name).is_some();
        let parts = |name: &str| -> Vec<&str> {
            value(name).map_or_else(Vec::new, |list| list.split(',').collect())
        };
        let (names, addresses, ports) = (parts("host"), parts("hostaddr"), parts("port"));
        let count = names.len().max(addresses.len()).max(1);
        let fits = |list: &[&str]| list.is_empty() || list.len() == count;
        if !fits(&names) || !fits(&addresses) || !(fits(&ports) || ports.len() == 1) {
            return Err(format!("it has {count} hosts, but not as many addresses or ports"));
        }
        let common =
            given.iter().filter(|(key, _)| !matches!(&**key, "host" | "hostaddr" | "port"));
        let common = common.map(|(key, value)| (key.as_str(), value.as_str()));
        let defaults = DEFAULTS.into_iter().filter(|(key, _)| !is_set(key));
        // The platform reads and writes text in this encoding alone.
        let common: Vec<_> = common.chain(defaults).chain([("client_encoding", "UTF8")]).collect();
        let at = |list: &[&'_ str], index: usize| {
            list.get(index).or(list.last()).map(|v| (*v).to_owned())
        };
        let mut hosts = Vec::new();
        for index in 0..count {
            let own = [
                ("host", at(&names, index)),
                ("hostaddr", at(&addresses, index)),
                ("port", at(&ports, index)),
            ];
            let own = own.iter().filter_map(|(key, value)| Some((*key, value.as_deref()?)));
            let all = common.iter().copied().chain(own);
            let pair = |(key, value): (&str, &str)| Ok((CString::new(key)?, CString::new(value)?));
            let all: Result<_, std::ffi::NulError> = all.map(pair).collect();
            hosts.push(all.map_err(|_| "it has a NUL byte".to_owned())?);
        }
        let database = value("dbname").map_or("postgres", String::as_str);
        let host = value("host").or(value("hostaddr")).map_or("the default host", String::as_str);
        let name = format!("database `{database}` at {host}");
        Ok(Self { hosts, name, has_password: is_set("password") })
    }

    /// Whether the connection string has a password.
    pub(super) fn has_password(&self) -> bool {
        self.has_password
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_host(target: &Target, index: usize, name: &str) -> Option<String> {
        let found = target.hosts[index].iter().find(|(key, _)| key.to_str() == Ok(name));
        found.map(|(_, value)| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn each_host_of_a_url_is_an_attempt_with_its_own_port() {
        let url = "postgresql://me@one:1,two:2/jobs?application_name=x";

        let target = Target::parse(url).unwrap();

        assert_eq!(target.hosts.len(), 2);
        assert_eq!(of_host(&target, 0, "host").unwrap(), "one");
        assert_eq!(of_host(&target, 1, "host").unwrap(), "two");
        assert_eq!(of_host(&target, 1, "port").unwrap(), "2");
        assert_eq!(of_host(&target, 1, "application_name").unwrap(), "x");
        assert_eq!(of_host(&target, 1, "target_session_attrs").unwrap(), "read-write");
        assert_eq!(target.name, "database `jobs` at one,two");
    }

    #[test]
    fn the_name_and_the_errors_of_a_target_do_not_have_its_password() {
        let target = Target::parse("postgresql://me:hunter22@one/jobs").unwrap();
        let wrong = Target::parse("postgresql://me:hunter22@one/x?hunter22").err().unwrap();

        assert!(target.has_password());
        assert!(!target.name.contains("hunter22"));
        assert!(!wrong.contains("hunter22"), "{wrong}");
    }

    #[test]
    fn hosts_without_a_port_for_each_are_rejected() {
        assert!(Target::parse("host=a,b,c port=1,2").is_err());
        assert!(Target::parse("host=a,b,c port=1").is_ok());
    }
}
