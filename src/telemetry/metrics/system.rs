//! What is looked up when somebody asks: descriptors of the process and the load of its runtimes.

use metrics::{Key, Label};
use rustix::process::{Resource, getrlimit};
use std::sync::{Mutex, PoisonError};
use tokio::runtime::{Handle, RuntimeMetrics};

/// The runtimes that carry traffic.
static RUNTIMES: Mutex<Vec<RuntimeMetrics>> = Mutex::new(Vec::new());

/// Has the runtimes that carry traffic reported (`tokio_…`), in place of those named before.
pub fn report_runtimes(runtimes: impl IntoIterator<Item = Handle>) {
    *RUNTIMES.lock().unwrap_or_else(PoisonError::into_inner) = runtimes.into_iter().map(|runtime| runtime.metrics()).collect();
}

/// A family of which the values are as of now.
pub(super) struct Sampled {
    pub(super) kind: &'static str,
    pub(super) series: Vec<(Key, f64)>,
}

pub(super) fn sample() -> Vec<Sampled> {
    let runtimes = RUNTIMES.lock().unwrap_or_else(PoisonError::into_inner).clone();
    sample_of(&runtimes)
}

/// With these as the runtimes that carry traffic.
pub(super) fn sample_of(runtimes: &[RuntimeMetrics]) -> Vec<Sampled> {
    let mut families = descriptors();
    if !runtimes.is_empty() {
        families.extend(load(runtimes));
    }
    families
}

fn gauge(name: &'static str, value: f64) -> Sampled {
    Sampled { kind: "gauge", series: vec![(Key::from_static_name(name), value)] }
}

fn descriptors() -> Vec<Sampled> {
    // The directory that is read is open as well, and is not counted.
    let open = std::fs::read_dir("/proc/self/fd").map(|fds| fds.count().saturating_sub(1));
    let open = open.ok().map(|open| gauge("process_open_fds", open as f64));
    let most = getrlimit(Resource::Nofile).current.map(|most| gauge("process_max_fds", most as f64));
    open.into_iter().chain(most).collect()
}

/// All runtimes as one, their workers numbered through.
fn load(runtimes: &[RuntimeMetrics]) -> Vec<Sampled> {
    let sum = |of: fn(&RuntimeMetrics) -> usize| runtimes.iter().map(of).sum::<usize>() as f64;
    let workers = || runtimes.iter().flat_map(|runtime| (0..runtime.num_workers()).map(move |worker| (runtime, worker)));
    let each = |name: &'static str, of: fn(&RuntimeMetrics, usize) -> f64| Sampled {
        kind: "counter",
        series: workers()
            .enumerate()
            .map(|(number, (runtime, worker))| (Key::from_parts(name, vec![Label::new("worker", number.to_string())]), of(runtime, worker)))
            .collect(),
    };
    vec![
        gauge("tokio_num_workers", sum(RuntimeMetrics::num_workers)),
        gauge("tokio_global_queue_depth", sum(RuntimeMetrics::global_queue_depth)),
        gauge("tokio_num_alive_tasks", sum(RuntimeMetrics::num_alive_tasks)),
        each("tokio_worker_total_busy_duration_seconds_total", |r, worker| r.worker_total_busy_duration(worker).as_secs_f64()),
        each("tokio_worker_park_count_total", |r, worker| r.worker_park_count(worker) as f64),
        each("tokio_worker_park_unpark_count_total", |r, worker| r.worker_park_unpark_count(worker) as f64),
    ]
}
