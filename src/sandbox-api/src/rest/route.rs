//! The routes of the REST API: [docs/api.md](../../../../docs/api.md) and docs/openapi.json describe them.

use http_server::{Method, Response};
use percent_encoding::percent_decode_str;

use super::context::Call;
use super::refused::Refused;
use super::{create, life, list, logs, metrics};

/// What a call does.
type Action = fn(&mut Call<'_, '_>) -> Result<Response, Refused>;

/// A route. Segments of its path in braces stand for any one segment.
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) action: Action,
}

const fn route(method: Method, path: &'static str, action: Action) -> Route {
    Route { method, path, action }
}

/// All routes.
pub(super) const ROUTES: &[Route] = &[
    route(Method::Post, "/v2/sandboxes", create::create),
    route(Method::Post, "/sandboxes", create::create),
    route(Method::Get, "/v2/sandboxes", list::sandboxes),
    route(Method::Get, "/sandboxes", list::running),
    route(Method::Get, "/sandboxes/{id}", life::info),
    route(Method::Delete, "/sandboxes/{id}", life::kill),
    route(Method::Post, "/v2/sandboxes/{id}/connect", life::connect),
    route(Method::Post, "/sandboxes/{id}/connect", life::connect),
    route(Method::Post, "/sandboxes/{id}/resume", life::resume),
    route(Method::Post, "/sandboxes/{id}/timeout", life::timeout),
    route(Method::Post, "/sandboxes/{id}/refreshes", life::refresh),
    route(Method::Post, "/sandboxes/{id}/pause", life::pause),
    route(Method::Put, "/sandboxes/{id}/network", life::network),
    route(Method::Get, "/sandboxes/{id}/metrics", metrics::metrics),
    route(Method::Get, "/sandboxes/{id}/logs", logs::lines),
    route(Method::Get, "/v2/sandboxes/{id}/logs", logs::entries),
    route(Method::Post, "/sandboxes/{id}/snapshots", no_snapshots),
    route(Method::Post, "/sandboxes/{id}/fork", no_snapshots),
    route(Method::Get, "/snapshots", no_snapshots),
    route(Method::Get, "/templates", list::templates),
    route(Method::Get, "/v2/templates", list::templates),
    route(Method::Get, "/templates/aliases/{alias}", list::alias),
    route(Method::Post, "/v3/templates", no_builds),
    route(Method::Post, "/v2/templates", no_builds),
    route(Method::Post, "/templates", no_builds),
    route(Method::Delete, "/templates/{id}", no_builds),
    route(Method::Get, "/volumes", no_volumes),
    route(Method::Post, "/volumes", no_volumes),
];

/// The first segments of paths that are this API's.
const ROOTS: &[&str] =
    &["sandboxes", "templates", "snapshots", "volumes", "volumecontent", "secrets", "v2", "v3"];

/// Whether a path is one of this API, known or not.
pub(super) fn is_ours(path: &str) -> bool {
    path.split('/').nth(1).is_some_and(|root| ROOTS.contains(&root))
}

/// The route of a request, and the variable segments of its path.
pub(super) fn find(method: Method, path: &str) -> Result<(&'static Route, Vec<String>), Refused> {
    let mut is_path = false;
    for route in ROUTES {
        if let Some(segments) = segments(route.path, path) {
            is_path = true;
            if route.method == method {
                return Ok((route, segments?));
            }
        }
    }
    let unsupported = ["/volumes", "/volumecontent", "/secrets", "/templates", "/v2/templates"];
    if is_path {
        Err(Refused::new(405, format!("{} is not possible here", method.name())))
    } else if unsupported.iter().any(|prefix| path.starts_with(prefix)) {
        Err(Refused::unsupported("this server has no such call"))
    } else {
        Err(Refused::new(404, "there is no such call"))
    }
}

/// The variable segments of a path, decoded; `None` if it is not the route's.
fn segments(route: &str, path: &str) -> Option<Result<Vec<String>, Refused>> {
    let mut variable = Vec::new();
    let (mut expected, mut given) = (route.split('/'), path.split('/'));
    loop {
        match (expected.next(), given.next()) {
            (None, None) => break,
            (Some(name), Some(segment)) if name.starts_with('{') && !segment.is_empty() => {
                variable.push(segment);
            }
            (Some(name), Some(segment)) if name == segment => {}
            _ => return None,
        }
    }
    let decode = |segment: &str| match percent_decode_str(segment).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(Refused::bad("the path is not UTF-8")),
    };
    Some(variable.into_iter().map(decode).collect())
}

fn no_snapshots(_: &mut Call<'_, '_>) -> Result<Response, Refused> {
    Err(Refused::unsupported("this server makes no snapshots of sandboxes"))
}

fn no_builds(_: &mut Call<'_, '_>) -> Result<Response, Refused> {
    Err(Refused::unsupported(
        "this server builds and deletes no templates: they are configured on its host",
    ))
}

fn no_volumes(_: &mut Call<'_, '_>) -> Result<Response, Refused> {
    Err(Refused::unsupported("this server has no volumes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_the_variables_of_its_route() {
        let found = find(Method::Get, "/templates/aliases/a%2Fb%3Ac").unwrap();
        assert_eq!(
            (found.0.path, found.1),
            ("/templates/aliases/{alias}", vec!["a/b:c".to_owned()])
        );
        assert_eq!(find(Method::Get, "/sandboxes").unwrap().0.path, "/sandboxes");
    }

    #[test]
    fn what_is_no_route_says_why() {
        let status = |method, path| find(method, path).err().unwrap().status;
        assert_eq!(status(Method::Get, "/sandboxes/"), 404);
        assert_eq!(status(Method::Get, "/sandboxes/a/b/c"), 404);
        assert_eq!(status(Method::Patch, "/sandboxes/a"), 405);
        assert_eq!(status(Method::Get, "/secrets/x"), 501);
        assert_eq!(status(Method::Get, "/sandboxes/%ff"), 400);
    }
}
