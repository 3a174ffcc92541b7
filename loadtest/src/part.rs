//! A part under way: on a thread of this process, or on a worker somewhere else. `run.rs` treats both alike.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::Context as _;
use rustls::ClientConfig;

use crate::engine::{Engine, Order, PartResult, Shared};
use crate::plan::Plan;
use crate::scenario::Scenario;
use crate::target::{Sources, Target};
use crate::tls::Trust;
use crate::token::Credential;

/// What all parts of a run have in common.
pub(crate) struct Common {
    pub(crate) scenario: Scenario,
    pub(crate) run: String,
    pub(crate) parts: usize,
    pub(crate) targets: Vec<Target>,
    /// As they were given, for workers elsewhere.
    pub(crate) target_urls: Vec<String>,
    pub(crate) tls: Arc<ClientConfig>,
    /// What it was made from, for workers elsewhere.
    pub(crate) trust: Trust,
    pub(crate) sources: Sources,
    pub(crate) source_texts: Vec<String>,
    pub(crate) credentials: Vec<Credential>,
}

impl Common {
    /// The credentials of a part's clients, by client.
    pub(crate) fn credentials_of(&self, part: usize) -> HashMap<u32, Credential> {
        let plan = Plan::new(&self.scenario, self.parts);
        let members =
            plan.lobbies.into_iter().filter(|lobby| lobby.part == part).flat_map(|lobby| lobby.members);
        members.filter_map(|number| Some((number, self.credentials.get(number as usize)?.clone()))).collect()
    }
}

/// A part under way.
pub(crate) struct Running {
    pub(crate) shared: Arc<Shared>,
    pub(crate) thread: JoinHandle<anyhow::Result<PartResult>>,
}

impl Running {
    /// Starts a part on a thread of this process.
    pub(crate) fn here(common: &Common, part: usize, start: Instant) -> anyhow::Result<Running> {
        let shared = Arc::new(Shared::default());
        let order = Order {
            scenario: common.scenario.clone(),
            run: common.run.clone(),
            part,
            parts: common.parts,
            credentials: common.credentials_of(part),
            targets: common.targets.clone(),
            tls: Arc::clone(&common.tls),
            sources: common.sources.clone(),
            start,
            shared: Arc::clone(&shared),
        };
        let thread = std::thread::Builder::new()
            .name(format!("part {part}"))
            .spawn(move || Ok(Engine::new(order).context("epoll")?.run()))
            .context("no thread")?;
        Ok(Running { shared, thread })
    }

    pub(crate) fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn join(self) -> anyhow::Result<PartResult> {
        self.thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a part panicked")))
    }
}
