//! The calls that list: sandboxes, templates.

use std::time::{Duration, SystemTime};

use http_server::Response;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde_json::json;

use super::context::{Call, json as reply};
use super::refused::Refused;
use super::shown::Listed;
use crate::launcher::Template;
use crate::sandboxes::{Filter, Order, State};

/// `GET /v2/sandboxes`
pub(super) fn sandboxes(call: &mut Call<'_, '_>) -> Result<Response, Refused> {
    let filter = filter(call)?;
    listed(call, &filter)
}

/// `GET /sandboxes`: those that run, unless the request says which.
pub(super) fn running(call: &mut Call<'_, '_>) -> Result<Response, Refused> {
    let mut filter = filter(call)?;
    if filter.states.is_empty() {
        filter.states = vec![State::Running];
    }
    listed(call, &filter)
}

fn listed(call: &Call<'_, '_>, filter: &Filter) -> Result<Response, Refused> {
    let page = call.context.sandboxes.list(&call.caller, filter)?;
    let shown: Vec<_> =
        page.sandboxes.iter().map(|(sandbox, status)| Listed::new(sandbox, *status)).collect();
    let response = reply(200, &shown)?.with("X-Total-Running", page.running.to_string());
    Ok(match page.next {
        Some(token) => response.with("X-Next-Token", token),
        None => response,
    })
}

fn filter(call: &Call<'_, '_>) -> Result<Filter, Refused> {
    let states = call.query("state")?;
    let states = states.iter().flat_map(|states| states.split(',')).map(|state| match state {
        "running" => Ok(State::Running),
        "paused" => Ok(State::Paused),
        other => Err(Refused::bad(format!("`state` is `{other}`: running and paused are known"))),
    });
    let order = match call.query("order")?.as_deref() {
        None | Some("desc") => Order::Descending,
        Some("asc") => Order::Ascending,
        Some(other) => {
            return Err(Refused::bad(format!("`order` is `{other}`: asc and desc are known")));
        }
    };
    let limit = match call.query("limit")? {
        None => None,
        Some(text) => match text.parse() {
            Ok(limit @ 1..=100) => Some(limit),
            _ => return Err(Refused::bad(format!("`limit` is `{text}`, not 1 to 100"))),
        },
    };
    let started_after = call.query("startedAfter")?.map(|text| {
        time(&text).ok_or_else(|| {
            Refused::bad(format!("`startedAfter` is `{text}`, not a time of RFC 3339"))
        })
    });
    Ok(Filter {
        metadata: call.query("metadata")?.as_deref().map(metadata).transpose()?.unwrap_or_default(),
        states: states.collect::<Result<_, _>>()?,
        order,
        started_after: started_after.transpose()?,
        template: call.query("template")?,
        limit,
        token: call.query("nextToken")?,
    })
}

/// The pairs of a metadata filter. They are encoded as a query within the query, and each name and value
/// once more within that.
fn metadata(text: &str) -> Result<Vec<(String, String)>, Refused> {
    let wrong = || Refused::bad("`metadata` is not UTF-8 in the encoding of queries");
    let decode = |part: &str| -> Result<String, Refused> {
        let part = part.replace('+', " ");
        let part = percent_decode_str(&part).decode_utf8().map_err(|_| wrong())?;
        let part = percent_decode_str(&part).decode_utf8().map_err(|_| wrong())?;
        Ok(part.into_owned())
    };
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((decode(name)?, decode(value)?))
    });
    pairs.collect()
}

/// A time of RFC 3339, with `Z` or with an offset.
fn time(text: &str) -> Option<SystemTime> {
    if text.ends_with(['Z', 'z']) {
        return humantime::parse_rfc3339(&text.to_ascii_uppercase()).ok();
    }
    let at = text.len().checked_sub(6)?;
    let (local, offset) = (text.get(..at)?, text.get(at..)?);
    let (hours, minutes) = offset.get(1..)?.split_once(':')?;
    let two_digits = |text: &str| -> Option<u64> {
        let is_number = text.len() == 2 && text.bytes().all(|c| c.is_ascii_digit());
        text.parse().ok().filter(|_| is_number)
    };
    let by = Duration::from_secs(3600 * two_digits(hours)? + 60 * two_digits(minutes)?);
    let local = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
    match offset.as_bytes().first()? {
        b'+' => local.checked_sub(by),
        b'-' => local.checked_add(by),
        _ => None,
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    #[serde(rename = "templateID")]
    template_id: &'a str,
    aliases: &'a [String],
    names: Vec<&'a String>,
    cpu_count: u32,
    #[serde(rename = "memoryMB")]
    memory_mb: u32,
    #[serde(rename = "diskSizeMB")]
    disk_size_mb: u64,
    public: bool,
}

impl<'a> Shown<'a> {
    fn new(template: &'a Template) -> Self {
        Self {
            template_id: &template.name,
            aliases: &template.aliases,
            names: std::iter::once(&template.name).chain(&template.aliases).collect(),
            cpu_count: template.vcpus,
            memory_mb: template.memory_mib,
            disk_size_mb: template.disk_mib,
            public: true,
        }
    }
}

/// `GET /templates`
pub(super) fn templates(call: &mut Call<'_, '_>) -> Result<Response, Refused> {
    let templates = call.context.sandboxes.templates();
    reply(200, &templates.iter().map(Shown::new).collect::<Vec<_>>())
}

/// `GET /templates/aliases/{alias}`
pub(super) fn alias(call: &mut Call<'_, '_>) -> Result<Response, Refused> {
    let templates = call.context.sandboxes.templates();
    match templates.iter().find(|template| template.is_named(call.id())) {
        Some(template) => reply(200, &json!({"templateID": template.name, "public": true})),
        None => Err(Refused::new(404, format!("template `{}` does not exist", call.id()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_may_have_an_offset() {
        let utc = time("2026-11-28T21:00:00.500Z").unwrap();
        assert_eq!(time("2026-11-28T21:00:00.500+00:00").unwrap(), utc);
        assert_eq!(time("2026-11-28T22:30:00.500+01:30").unwrap(), utc);
        assert_eq!(time("2026-11-28T16:00:00.500-05:00").unwrap(), utc);
        let wrong = [
            "",
            "now",
            "2026-11-28",
            "2026-11-28T21:00:00+é0:0",
            "2026-11-28T21:00:00+99999999999999999999:00",
        ];
        assert_eq!(wrong.map(time), [None; 5]);
    }

    #[test]
    fn metadata_is_decoded_twice_more_than_the_query() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let pairs = metadata("a%2520b=c%2526d&plain=x").unwrap();
        assert_eq!(pairs, [pair("a b", "c&d"), pair("plain", "x")]);
        assert!(metadata("a=%25FF").is_err());
    }
}
