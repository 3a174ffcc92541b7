//! The metrics of a process: one set for the process itself and one registry for each of its parts (two nodes run in
//! one test process, so nothing is static). `/metrics` shows all of them as one page.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{Encoder, IntGauge, Opts, Registry, TextEncoder};

/// All registries of a process.
#[derive(Clone)]
pub struct Metrics {
    own: Registry,
    /// The system's figures of the process: looked up at every gathering, so only for the page.
    system: Registry,
    parts: Arc<Mutex<Vec<Registry>>>,
}

/// Registers a metric that was just made.
///
/// # Panics
/// When its name or labels are malformed or taken: a mistake in the program, found by the first start.
pub fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: prometheus::Result<C>) -> C {
    let metric = metric.expect("a metric's name and labels are well-formed");
    registry.register(Box::new(metric.clone())).expect("a metric is registered once in its registry");
    metric
}

impl Metrics {
    /// Metrics of the process itself: memory, CPU, file descriptors, and which build it is.
    pub fn new(version: &str, role: &str) -> Metrics {
        let (own, system) = (Registry::new(), Registry::new());
        #[cfg(target_os = "linux")]
        system
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
            .expect("the process collector is registered once");
        let opts = Opts::new("mlms_build_info", "Always 1; the labels tell the build and the role.")
            .const_label("version", version)
            .const_label("role", role);
        register(&own, IntGauge::with_opts(opts)).set(1);
        Metrics { own, system, parts: Arc::default() }
    }

    /// The process's own registry, for what is there once.
    pub fn registry(&self) -> &Registry {
        &self.own
    }

    /// A registry for one part; its labels (for example `node`) tell it from others of its kind.
    ///
    /// # Panics
    /// When a label's name is malformed.
    pub fn part(&self, labels: &[(&str, &str)]) -> Registry {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let registry = Registry::new_custom(None, Some(labels)).expect("labels are well-formed");
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).push(registry.clone());
        registry
    }

    /// What the process itself counts, without the system's figures of it; a name comes once a part.
    pub(crate) fn families(&self) -> Vec<MetricFamily> {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        std::iter::once(&self.own).chain(&parts).flat_map(Registry::gather).collect()
    }

    /// Everything that the page shows; a name comes once a part.
    pub(crate) fn all(&self) -> Vec<MetricFamily> {
        self.families().into_iter().chain(self.system.gather()).collect()
    }

    /// The Prometheus text page.
    ///
    /// # Errors
    /// When a metric cannot be written as text.
    pub fn render(&self) -> prometheus::Result<String> {
        let mut families: BTreeMap<String, MetricFamily> = BTreeMap::new();
        // A family stands once on the page: parts of one kind give the same names with other labels.
        for mut family in self.all() {
            match families.get_mut(family.name()) {
                Some(first) => first.mut_metric().append(&mut family.take_metric()),
                None => {
                    families.insert(family.name().to_owned(), family);
                }
            }
        }
        let families: Vec<MetricFamily> = families.into_values().collect();
        let mut page = Vec::new();
        TextEncoder::new().encode(&families, &mut page)?;
        Ok(String::from_utf8_lossy(&page).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use prometheus::IntCounter;

    use super::*;

    #[test]
    fn two_parts_of_one_kind_stand_under_one_family() {
        let metrics = Metrics::new("1.2.3", "standalone");
        for node in ["node-1", "node-2"] {
            let registry = metrics.part(&[("node", node)]);
            register(&registry, IntCounter::new("mlms_sessions_opened_total", "Sessions opened.")).inc();
        }
        let page = metrics.render().unwrap();
        assert_eq!(page.matches("# TYPE mlms_sessions_opened_total counter").count(), 1, "{page}");
        assert!(page.contains("mlms_sessions_opened_total{node=\"node-1\"} 1"), "{page}");
        assert!(page.contains("mlms_sessions_opened_total{node=\"node-2\"} 1"), "{page}");
        assert!(page.contains("mlms_build_info{role=\"standalone\",version=\"1.2.3\"} 1"), "{page}");
    }
}
