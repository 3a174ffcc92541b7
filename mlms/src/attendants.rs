//! What runs around a role from its first moment to its last: the operator's listener, signals, settings that change, and
//! the outputs of metrics and spans. It is there before the role is, so that a process which waits for a server at its
//! start lives, is not ready, and can be told to stop. It never decides about the role itself.

use mlms_process::admin::Admin;
use mlms_process::health::Component;
use mlms_process::saturation::Saturation;
use mlms_process::statsd;
use mlms_process::trace::{Exporter, Tracer};
use mlms_process::{Live, Settings, Shutdown};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The tasks around a role.
pub(crate) struct Attendants {
    ended: CancellationToken,
    signals: JoinHandle<std::io::Result<()>>,
    listener: JoinHandle<std::io::Result<()>>,
    others: Vec<JoinHandle<()>>,
}

impl Attendants {
    /// Starts all of them.
    pub(crate) fn start(
        live: &Live,
        shutdown: &Shutdown,
        (tracer, exporter): (Tracer, Exporter),
        settings_health: Component,
        admin: Admin,
        listener: TcpListener,
    ) -> Attendants {
        let ended = CancellationToken::new();
        let (metrics, statsd) = (admin.metrics.clone(), live.settings().statsd.clone());
        let reloading = {
            let (live, registry, ended) = (live.clone(), metrics.registry().clone(), ended.clone());
            async move { live.run(&registry, settings_health, ended).await }
        };
        let others = vec![
            tokio::spawn(reloading),
            tokio::spawn(follow_ratio(tracer, live.watch(), ended.clone())),
            tokio::spawn(exporter.run(ended.clone())),
            tokio::spawn(admin.saturation.clone().run(ended.clone())),
            tokio::spawn(statsd::run(statsd, metrics, ended.clone())),
        ];
        let signals = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.listen().await }
        });
        let listener = tokio::spawn(admin.serve(listener, ended.clone()));
        Attendants { ended, signals, listener, others }
    }

    /// Ends them all, behind everything that is to be watched.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        self.ended.cancel();
        self.signals.abort();
        self.listener.await??;
        for task in self.others {
            task.await?;
        }
        Ok(())
    }
}

/// What autoscalers are told of this process.
pub(crate) fn saturation(metrics: &mlms_process::metrics::Metrics, settings: &Settings) -> Saturation {
    Saturation::new(metrics, settings.connections_max, settings.node.backlog_bytes_max)
}

/// Keeps what is traced at what the settings say.
async fn follow_ratio(
    tracer: Tracer,
    mut settings: watch::Receiver<std::sync::Arc<Settings>>,
    stop: CancellationToken,
) {
    while let Some(Ok(())) = stop.run_until_cancelled(settings.changed()).await {
        tracer.set_sample_ratio(settings.borrow_and_update().trace.sample_ratio);
    }
}
