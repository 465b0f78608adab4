//! How busy the runtime is that watches and passes share.

use std::time::Duration;

use tokio::runtime::RuntimeMetrics;

use super::Text;

/// Writes its families.
pub(super) fn write(runtime: &RuntimeMetrics, text: &mut Text) {
    let workers = runtime.num_workers();
    let busy: Duration = (0..workers).map(|worker| runtime.worker_total_busy_duration(worker)).sum();
    text.family("tokio_workers").add(&[], number(workers));
    text.family("tokio_alive_tasks").add(&[], number(runtime.num_alive_tasks()));
    text.family("tokio_global_queue_depth").add(&[], number(runtime.global_queue_depth()));
    text.family("tokio_workers_busy_seconds_total").add(&[], busy.as_secs_f64());
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
