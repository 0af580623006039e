//! Signed URLs of files: `?path=…&username=…&signature=v1_…&signature_expiration=…`.
//!
//! The signature is the SHA-256 of `path:operation:user:token`, with `:expiration` if there is one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http_server::{Head, Method};
use sha2::{Digest as _, Sha256};

use super::is_equal;
use crate::rest::refused::Refused;

/// What a URL is signed for.
pub(super) struct Signed {
    path: String,
    operation: &'static str,
    user: String,
    /// In seconds since 1970, as it was written.
    expiration: Option<String>,
    signature: String,
}

impl Signed {
    pub(super) fn of(head: &Head) -> Result<Self, Refused> {
        let Some(signature) = head.query("signature")? else {
            return Err(Refused::new(401, "missing signature query parameter"));
        };
        let operation = if head.method == Method::Post { "write" } else { "read" };
        Ok(Self {
            path: head.query("path")?.unwrap_or_default(),
            operation,
            user: head.query("username")?.unwrap_or_default(),
            expiration: head.query("signature_expiration")?,
            signature,
        })
    }

    /// Whether it was signed with this token.
    pub(super) fn is_by(&self, token: &str) -> bool {
        let Self { path, operation, user, .. } = self;
        let mut text = format!("{path}:{operation}:{user}:{token}");
        if let Some(expiration) = &self.expiration {
            text.push(':');
            text.push_str(expiration);
        }
        let expected = format!("v1_{}", STANDARD_NO_PAD.encode(Sha256::digest(text)));
        is_equal(&self.signature, &expected)
    }

    /// Checks the signature, then its time.
    pub(super) fn check(&self, token: &str, now: SystemTime) -> Result<(), Refused> {
        if !self.is_by(token) {
            return Err(Refused::new(401, "invalid signature"));
        }
        let Some(expiration) = &self.expiration else { return Ok(()) };
        let seconds = expiration.parse().map_err(|_| Refused::new(401, "invalid signature"))?;
        match UNIX_EPOCH.checked_add(Duration::from_secs(seconds)) {
            Some(expiration) if expiration < now => {
                Err(Refused::new(401, "signature is already expired"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(expiration: Option<&str>, signature: &str) -> Signed {
        Signed {
            path: "a b.txt".into(),
            operation: "read",
            user: String::new(),
            expiration: expiration.map(str::to_owned),
            signature: signature.into(),
        }
    }

    #[test]
    fn a_signature_is_the_one_that_clients_make() {
        let it = signed(None, "v1_2fga42hNL1weX3LBUTOzhOGSAdTw2dYxhfjRn1WWWXg");
        assert!(it.is_by("tok_envd"));
        assert!(!it.is_by("other"));
        assert!(it.check("tok_envd", SystemTime::now()).is_ok());
    }

    #[test]
    fn an_expired_signature_is_refused_if_it_was_valid() {
        let text = "a b.txt:read::tok_envd:1000";
        let signature = format!("v1_{}", STANDARD_NO_PAD.encode(Sha256::digest(text)));
        let it = signed(Some("1000"), &signature);
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert!(it.check("tok_envd", at(1000)).is_ok());
        let late = it.check("tok_envd", at(1001)).unwrap_err();
        assert_eq!((late.status, &*late.message), (401, "signature is already expired"));
        let forged = signed(Some("9999"), &signature).check("tok_envd", at(1001)).unwrap_err();
        assert_eq!(forged.message, "invalid signature");
    }
}
