//! The operator's listener: `/live`, `/ready`, `/metrics`, `/scale` for machines, `/health` and role-specific routes for
//! people. Beyond loopback everything but probes and metrics needs a bearer token with the role `admin`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use mlms_protocol::Role;
use prometheus::IntGauge;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::health::{Health, Readiness};
use crate::http::{self, HttpOptions, ListenerMetrics};
use crate::jwt::{TokenError, Verifier};
use crate::metrics::{Metrics, register};
use crate::saturation::Saturation;

/// Connections at once; probes and a few people.
const CONNECTIONS_MAX: usize = 256;

/// Longest request body of a role's route.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// What the listener shows, and who may see it.
#[derive(Clone)]
pub struct Admin {
    pub health: Health,
    pub readiness: Readiness,
    pub metrics: Metrics,
    /// What autoscalers are told.
    pub saturation: Saturation,
    /// Verifies the operator's token. Without one, protected routes are refused beyond loopback.
    pub verifier: Option<Verifier>,
    /// Role-specific routes (cluster status, drain); protected like `/health`.
    pub routes: Router,
}

impl Admin {
    /// Serves the listener until `stop`. It should stop last, so that a draining process can still be watched.
    ///
    /// # Errors
    /// When the listener's own address cannot be read.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) -> std::io::Result<()> {
        let door = Door { verifier: self.verifier.clone(), local: listener.local_addr()?.ip().is_loopback() };
        let metrics = ListenerMetrics::new(self.metrics.registry(), "admin");
        let router = self.router(door);
        let service = move |request: Request<hyper::body::Incoming>, _peer| {
            let router = router.clone();
            async move {
                let response = router.oneshot(request.map(Body::new)).await;
                response.unwrap_or_else(|never| match never {})
            }
        };
        let options = HttpOptions { connections_max: CONNECTIONS_MAX, ..HttpOptions::default() };
        http::serve(listener, options, metrics, service, stop).await;
        Ok(())
    }

    fn router(self, door: Door) -> Router {
        register(self.metrics.registry(), Stage::new(self.readiness.clone()));
        let probes = Router::new()
            .route("/live", get(async || "alive\n"))
            .route("/ready", get(ready))
            .with_state((self.readiness.clone(), self.health.clone()))
            .merge(Router::new().route("/metrics", get(metrics_page)).with_state(self.metrics))
            .merge(Router::new().route("/scale", get(scale_page)).with_state(self.saturation));
        let protected = Router::new()
            .route("/health", get(health_page))
            .with_state((self.health, self.readiness))
            .merge(self.routes)
            .layer(axum::extract::DefaultBodyLimit::max(BODY_BYTES_MAX))
            .layer(middleware::from_fn_with_state(Arc::new(door), guard));
        probes.merge(protected)
    }
}

/// A process that serves with less than it should have stays ready, and names what that is; why, `/health` tells.
async fn ready(State((readiness, health)): State<(Readiness, Health)>) -> Response {
    let missing = readiness.missing();
    let status = if missing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut page = serde_json::json!({ "ready": missing.is_empty(), "missing": missing });
    let impaired = health.impaired();
    if !impaired.is_empty() {
        page["degraded"] = impaired.into();
    }
    (status, Json(page)).into_response()
}

async fn health_page(State((health, readiness)): State<(Health, Readiness)>) -> Json<serde_json::Value> {
    Json(serde_json::json!({
        "state": health.overall(),
        "ready": readiness.is_ready(),
        "draining": readiness.is_draining(),
        "services": health.report(),
    }))
}

async fn scale_page(State(saturation): State<Saturation>) -> Response {
    Json(saturation.latest()).into_response()
}

/// Whether the process is ready and whether it drains, looked up whenever the metrics are gathered.
#[derive(Clone)]
struct Stage {
    readiness: Readiness,
    ready: IntGauge,
    draining: IntGauge,
}

impl Stage {
    fn new(readiness: Readiness) -> prometheus::Result<Stage> {
        Ok(Stage {
            readiness,
            ready: IntGauge::new("mlms_ready", "1 while the process takes new sessions, else 0.")?,
            draining: IntGauge::new("mlms_draining", "1 from the start of the drain on, else 0.")?,
        })
    }
}

impl Collector for Stage {
    fn desc(&self) -> Vec<&Desc> {
        self.ready.desc().into_iter().chain(self.draining.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.ready.set(self.readiness.is_ready().into());
        self.draining.set(self.readiness.is_draining().into());
        self.ready.collect().into_iter().chain(self.draining.collect()).collect()
    }
}

async fn metrics_page(State(metrics): State<Metrics>) -> Response {
    match metrics.render() {
        Ok(page) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], page).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// Who may pass to the protected routes.
struct Door {
    verifier: Option<Verifier>,
    /// Bound to loopback: whoever is on the machine may.
    local: bool,
}

async fn guard(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    let token = bearer(request.headers());
    let refusal = match (token, &door.verifier) {
        (Some(token), Some(verifier)) => match verifier.verify(token).await {
            Ok(claims) if claims.has_role(Role::Admin) => None,
            Ok(_) => Some((StatusCode::FORBIDDEN, "the token lacks the role admin")),
            Err(TokenError::Expired) => Some((StatusCode::UNAUTHORIZED, "the token has expired")),
            Err(TokenError::Bad(_)) => Some((StatusCode::UNAUTHORIZED, "the token is not valid")),
            Err(TokenError::KeysUnavailable) => {
                Some((StatusCode::SERVICE_UNAVAILABLE, "the token cannot be verified at the moment"))
            }
        },
        _ if door.local && from_this_machine(request.headers(), request.uri()) => None,
        _ if door.local => Some((StatusCode::FORBIDDEN, "requests of web pages are refused")),
        _ => Some((StatusCode::UNAUTHORIZED, "a bearer token with the role admin is needed")),
    };
    match refusal {
        None => next.run(request).await,
        Some((status, message)) => {
            tracing::warn!(%status, path = request.uri().path(), "refused on the admin listener: {message}");
            (status, Json(serde_json::json!({ "error": message }))).into_response()
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// A browser on this machine may be led here by any web page: such a request has an `Origin`, or (with a name that
/// was rebound to loopback) a `Host` that is not this machine.
fn from_this_machine(headers: &HeaderMap, uri: &Uri) -> bool {
    if headers.contains_key(header::ORIGIN) {
        return false;
    }
    let named = headers.get(header::HOST).and_then(|host| host.to_str().ok()).or_else(|| uri.host());
    let Some(named) = named else { return true };
    let host = match named.parse::<SocketAddr>() {
        Ok(address) => return address.ip().is_loopback(),
        Err(_) => named.rsplit_once(':').map_or(named, |(host, _)| host),
    };
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests;
