//! What is recorded of a request that is traced: one span at the edge, and its context on the way to the node. It
//! travels with the task, so that no hand between has to know of it.

use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::{Request, Response};
use mlms_process::trace::{Kind, Span, Tracer};
use mlms_protocol::TraceParent;
use mlms_protocol::trace::TRACEPARENT;
use tracing::Instrument;

use crate::edge::Body;

tokio::task_local! {
    /// What a request to a node has as its parent.
    static CONTEXT: TraceParent;
}

/// Answers a request, and records it if it is traced.
pub(crate) async fn traced(
    tracer: &Tracer,
    request: Request<Incoming>,
    answer: impl AsyncFnOnce(Request<Incoming>) -> Response<Body>,
) -> Response<Body> {
    let Some(span) = span_of(tracer, &request) else { return answer(request).await };
    let path = request.uri().path();
    let mut span = span.with("http.request.method", request.method().as_str()).with("url.path", path);
    let in_log = span.in_log();
    // Boxed: most requests are not traced, and need no second room for their answer.
    let response = CONTEXT.scope(span.context(), Box::pin(answer(request))).instrument(in_log).await;
    let status = response.status();
    span.set("http.response.status_code", u64::from(status.as_u16()));
    if status.is_server_error() {
        span.fail(status.to_string());
    }
    response
}

/// The span of a request that is to be traced.
fn span_of(tracer: &Tracer, request: &Request<Incoming>) -> Option<Span> {
    if !tracer.is_on() {
        return None;
    }
    let name = match request.uri().path() {
        "/ws" => "connect",
        path if path.starts_with("/lobbies/") => "connect",
        path if path.starts_with("/v1/") => "rest",
        // The page, and probes.
        _ => return None,
    };
    let given = request.headers().get(TRACEPARENT).and_then(|value| value.to_str().ok());
    tracer.sample(given).and_then(|parent| tracer.span(name, Kind::Server, &parent))
}

/// What a node goes on from with the trace of this task, if it is traced.
pub(crate) fn context() -> Option<String> {
    CONTEXT.try_with(TraceParent::to_string).ok()
}

/// The same as a header.
pub(crate) fn header() -> Option<HeaderValue> {
    HeaderValue::try_from(context()?).ok()
}
