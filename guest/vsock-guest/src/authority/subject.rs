//! OpenSSL's subject hash, by which it finds a certificate in a folder: `57127529.0`.
//!
//! It is the first four bytes of the SHA-1 of the subject's name in a canonical form: each relative
//! distinguished name as DER, without the sequence around them, and each text in it as UTF-8, in
//! lower case (of ASCII), with no white space at its ends and single spaces within.

use sha1::{Digest as _, Sha1};

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const UTF8: u8 = 0x0c;
const PRINTABLE: u8 = 0x13;
const T61: u8 = 0x14;
const IA5: u8 = 0x16;
const VISIBLE: u8 = 0x1a;
const UNIVERSAL: u8 = 0x1c;
const BMP: u8 = 0x1e;
/// The explicit tag of a certificate's version, which is optional.
const VERSION: u8 = 0xa0;

/// The hash of a certificate's subject; `None` if the bytes are not a certificate.
pub(super) fn hash(der: &[u8]) -> Option<String> {
    let canonical = canonical(subject(der)?)?;
    let digest = Sha1::digest(&canonical);
    Some(format!("{:08x}", u32::from_le_bytes(*digest.first_chunk()?)))
}

/// The content of the subject's sequence: behind serial number, algorithm, issuer and validity.
fn subject(certificate: &[u8]) -> Option<&[u8]> {
    let (certificate, _) = expect(certificate, SEQUENCE)?;
    let (mut rest, _) = expect(certificate, SEQUENCE)?;
    if let Some((_, behind)) = expect(rest, VERSION) {
        rest = behind;
    }
    for _ in 0..4 {
        (_, _, rest) = element(rest)?;
    }
    expect(rest, SEQUENCE).map(|(subject, _)| subject)
}

fn canonical(mut name: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    while !name.is_empty() {
        let (mut attributes, rest) = expect(name, SET)?;
        name = rest;
        let mut set = Vec::new();
        while !attributes.is_empty() {
            let (attribute, rest) = expect(attributes, SEQUENCE)?;
            attributes = rest;
            set.push(canonical_attribute(attribute)?);
        }
        // DER orders a set by its members' bytes.
        set.sort();
        append(&mut out, SET, &set.concat());
    }
    Some(out)
}

/// A type and a value.
fn canonical_attribute(attribute: &[u8]) -> Option<Vec<u8>> {
    let (_, _, value) = element(attribute)?;
    let kind = attribute.strip_suffix(value)?;
    let (tag, content, _) = element(value)?;
    let mut content_out = kind.to_vec();
    match text(tag, content) {
        Some(text) => append(&mut content_out, UTF8, squeeze(&text).as_bytes()),
        None => content_out.extend(value),
    }
    let mut out = Vec::new();
    append(&mut out, SEQUENCE, &content_out);
    Some(out)
}

/// Decodes a string type; `None` for other types, which the canonical form keeps unchanged.
fn text(tag: u8, content: &[u8]) -> Option<String> {
    match tag {
        UTF8 | PRINTABLE | IA5 | VISIBLE => Some(String::from_utf8_lossy(content).into_owned()),
        T61 => Some(content.iter().map(|byte| char::from(*byte)).collect()),
        BMP => {
            let units = content.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            Some(units.filter_map(|unit| char::from_u32(unit.into())).collect())
        }
        UNIVERSAL => {
            let units = content.chunks_exact(4);
            let units =
                units.filter_map(|four| four.first_chunk().copied().map(u32::from_be_bytes));
            Some(units.filter_map(char::from_u32).collect())
        }
        _ => None,
    }
}

fn squeeze(text: &str) -> String {
    let is_space = |c: char| matches!(c, '\t'..='\r' | ' ');
    let words = text.split(is_space).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ").to_ascii_lowercase()
}

fn append(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    out.push(tag);
    let length = content.len().to_be_bytes();
    let used = length.iter().skip_while(|byte| **byte == 0).copied().collect::<Vec<_>>();
    match used.as_slice() {
        [] => out.push(0),
        [short @ 0..0x80] => out.push(*short),
        long => {
            out.push(0x80 | long.len() as u8);
            out.extend(long);
        }
    }
    out.extend(content);
}

/// An element of that tag: its content and the rest.
fn expect(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = element(der)?;
    (found == tag).then_some((content, rest))
}

/// The first element: its tag, its content and the rest.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let length = match first {
        0..0x80 => usize::from(first),
        _ => {
            let (digits, behind) = rest.split_at_checked(usize::from(first & 0x7f))?;
            rest = behind;
            digits.iter().try_fold(0_usize, |length, digit| {
                length.checked_mul(256)?.checked_add(usize::from(*digit))
            })?
        }
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::certificates;
    use super::*;

    /// Names in UTF-8 and PrintableString, with white space, capitals and a set of two attributes.
    pub(in super::super) const UTF8_NAME: &str = "\
-----BEGIN CERTIFICATE-----
MIIBcTCCASMCFG2bZC8JZRCJIi4jbhO6+hRyUr0gMAUGAytlcDBaMQswCQYDVQQG
EwJERTEWMBQGA1UECgwNw4RjaG1lICBHbWJIIDEbMAgGA1UECwwBQjAPBgoJkiaJ
k/IsZAEBDAFhMRYwFAYDVQQDDA0gQ29ycCBSb290IENBMCAXDTI2MTEyODE4MDEw
OFoYDzIxMjYxMTA0MTgwMTA4WjBaMQswCQYDVQQGEwJERTEWMBQGA1UECgwNw4Rj
aG1lICBHbWJIIDEbMAgGA1UECwwBQjAPBgoJkiaJk/IsZAEBDAFhMRYwFAYDVQQD
DA0gQ29ycCBSb290IENBMCowBQYDK2VwAyEAh6v+CsPofgpIChyLz+Zv4cp9NGdx
WKbFCUeaHWWM4eIwBQYDK2VwA0EAkg+6c0kSLnwmPOzYuup+uJeUSRyGJuNhgJ82
Rgd8o9gV8c3HmqP3knd1n/UbE5PRmoKzUy79vX5xJanS2GTiDQ==
-----END CERTIFICATE-----
";
    const BMP_NAME: &str = "\
-----BEGIN CERTIFICATE-----
MIIBIDCB0wIUMm2ON/Ggd6VPZsr8gUOQOa88NKYwBQYDK2VwMDIxHTAbBgNVBAoe
FADEAGMAaABtAGUAIABHAG0AYgBIMREwDwYDVQQDHggAUgBvAG8AdDAgFw0yNjEx
MjgxODAxMDhaGA8yMTI2MTEwNDE4MDEwOFowMjEdMBsGA1UECh4UAMQAYwBoAG0A
ZQAgAEcAbQBiAEgxETAPBgNVBAMeCABSAG8AbwB0MCowBQYDK2VwAyEAh6v+CsPo
fgpIChyLz+Zv4cp9NGdxWKbFCUeaHWWM4eIwBQYDK2VwA0EA9MHf32eMV3T7fqsp
e1wT4axr/BTTmf711aUs+TsgUgwmKi89GtsYBru8guxITebFWB7fxE3Q8qKwA6Cz
J8Y1DQ==
-----END CERTIFICATE-----
";
    const T61_NAME: &str = "\
-----BEGIN CERTIFICATE-----
MIIBBDCBtwIUXvfEF8j1IXg7jXgf5PauGtj6eDcwBQYDK2VwMCQxEzARBgNVBAoU
CsRjaG1lIEdtYkgxDTALBgNVBAMUBFJvb3QwIBcNMjYxMTI4MTgwMTA4WhgPMjEy
NjExMDQxODAxMDhaMCQxEzARBgNVBAoUCsRjaG1lIEdtYkgxDTALBgNVBAMUBFJv
b3QwKjAFBgMrZXADIQCHq/4Kw+h+CkgKHIvP5m/hyn00Z3FYpsUJR5odZYzh4jAF
BgMrZXADQQD+sfFCGzmKrTazTYInoc5JZnIG3RqtnAQXKv4M40lpdtGZ776FN1FP
oRqtxUjA69rUcA0yL+3u/QccUU/o2c4K
-----END CERTIFICATE-----
";
    const OWN_NAME: &str = "\
-----BEGIN CERTIFICATE-----
MIHuMIGhAhRqCqkxejJKsM7WEETGoPVkSnt8tDAFBgMrZXAwGTEXMBUGA1UEAwwO
c2FuZGJveC1ydW5uZXIwIBcNMjYxMTI4MTgwMTA4WhgPMjEyNjExMDQxODAxMDha
MBkxFzAVBgNVBAMMDnNhbmRib3gtcnVubmVyMCowBQYDK2VwAyEAh6v+CsPofgpI
ChyLz+Zv4cp9NGdxWKbFCUeaHWWM4eIwBQYDK2VwA0EAqCAW5jPxTLsCOv61Z4hD
8LTiSP3SpHn6AOP/Jm7Hg0BlxmByDeTUs21IUgJYa3EFKVy8Vj5NsIE2nI/onXmz
DA==
-----END CERTIFICATE-----
";

    fn hash_of(pem: &str) -> Option<String> {
        hash(&certificates(pem)[0])
    }

    // As printed by `openssl x509 -noout -subject_hash`.
    #[test]
    fn hash_is_that_of_openssl_whatever_the_encoding_of_the_name() {
        assert_eq!(hash_of(UTF8_NAME).unwrap(), "789bffef");
        assert_eq!(hash_of(BMP_NAME).unwrap(), "a50ab4d4");
        assert_eq!(hash_of(T61_NAME).unwrap(), "a50ab4d4");
        assert_eq!(hash_of(OWN_NAME).unwrap(), "57127529");
    }

    #[test]
    fn cut_certificates_have_no_hash_until_the_name_is_whole() {
        let der = &certificates(OWN_NAME)[0];

        let hashed = (0..der.len()).filter(|end| hash(&der[..*end]).is_some());

        assert_eq!(hashed.count(), 0);
    }
}
