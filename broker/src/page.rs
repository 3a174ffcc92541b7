//! The page and the client it loads, carried in the binary. Nothing here depends on who asks.

use bytes::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use crate::edge::Body;

struct File {
    path: &'static str,
    extension: &'static str,
    etag: &'static str,
    bytes: &'static [u8],
}

/// Made by `build.rs`.
const FILES: &[File] = include!(concat!(env!("OUT_DIR"), "/page.rs"));

/// Scripts, styles and connections only of this host; text that came over the network can start nothing.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The file at a path, or that the client has it already.
pub(crate) fn serve(path: &str, request: &HeaderMap) -> Option<Response<Body>> {
    // A page of a name of its own.
    let path = if path == "/docs" { "/docs.html" } else { path };
    let file = FILES.iter().find(|file| file.path == path)?;
    let is_known = is_known(request, file.etag);
    let mut response = if is_known {
        let mut response = Response::new(Body::default());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        let mut response = Response::new(Body::new(Bytes::from_static(file.bytes)));
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type(file.extension)));
        response
    };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, HeaderValue::from_static(file.etag));
    // The page and its scripts belong together: always ask whether they are still the same.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY));
    Some(response)
}

/// Whether the client has what carries this tag.
pub(crate) fn is_known(request: &HeaderMap, etag: &str) -> bool {
    let mut known = named(request, &header::IF_NONE_MATCH).map(|known| known.trim_start_matches("W/"));
    known.any(|known| known == etag || known == "*")
}

/// Whether the client wants a change of what carries this tag, and of nothing else.
pub(crate) fn is_meant(request: &HeaderMap, etag: &str) -> bool {
    named(request, &header::IF_MATCH).any(|meant| meant == etag || meant == "*")
}

fn named<'a>(request: &'a HeaderMap, header: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lists = request.get_all(header).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).map(str::trim)
}

fn content_type(extension: &str) -> &'static str {
    match extension {
        "html" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "svg" => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_served_once_under_its_own_path_and_not_again_to_who_has_it() {
        for file in FILES {
            assert_eq!(FILES.iter().filter(|other| other.path == file.path).count(), 1, "{}", file.path);
            let response = serve(file.path, &HeaderMap::new()).unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            assert_ne!(response.headers()[header::CONTENT_TYPE], "application/octet-stream", "{}", file.path);
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, response.headers()[header::ETAG].clone());
            assert_eq!(serve(file.path, &headers).unwrap().status(), StatusCode::NOT_MODIFIED);
        }
        assert!(serve("/../Cargo.toml", &HeaderMap::new()).is_none());
    }
}
