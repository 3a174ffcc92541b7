//! What every process does alike: settings, logging, the admin listener, readiness and health, users' tokens, the
//! accept loop, metrics, and stopping. It knows nothing of lobbies and sessions.

pub mod admin;
pub mod config;
mod consul;
pub mod health;
pub mod http;
pub mod jwt;
pub mod live;
pub mod logging;
pub mod metrics;
pub mod problem;
pub mod saturation;
pub mod shutdown;
pub mod statsd;
pub mod tcp;
pub mod trace;
pub mod trunk;
mod web;

#[cfg(test)]
mod testing;

pub use config::{ProcessRole, Settings};
pub use health::{Health, Readiness};
pub use jwt::{Claims, TokenError, Verifier, install_crypto_provider};
pub use live::Live;
pub use problem::Problem;
pub use shutdown::Shutdown;
pub use trace::Tracer;
