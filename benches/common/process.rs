//! A process of ours, and what the kernel knows of it.

use nix::{sys::time::TimeValLike as _, time::clock_getcpuclockid, unistd::Pid};
use std::{process::Child, time::Duration};

/// A process that ends with its handle.
#[derive(Debug)]
pub struct Owned(pub Child);

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Owned {
    /// CPU time so far, user and system, of all threads including those that have ended. In
    /// nanoseconds: `/proc/PID/stat` counts in hundredths of a second, and the `schedstat` of a task
    /// is gone with it.
    pub fn cpu(&self) -> Duration {
        let clock = clock_getcpuclockid(Pid::from_raw(self.0.id() as i32)).expect("the process runs");
        Duration::from_nanos(clock.now().expect("the process runs").num_nanoseconds() as u64)
    }

    /// Resident memory now, MiB.
    pub fn rss(&self) -> f64 {
        self.status("VmRSS:")
    }

    /// The most it has been, MiB.
    pub fn peak_rss(&self) -> f64 {
        self.status("VmHWM:")
    }

    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.0.id())).expect("the process runs").count()
    }

    fn status(&self, key: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).expect("the process runs");
        let line = status.lines().find_map(|l| l.strip_prefix(key)).expect("the process has not ended");
        line.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1024.0
    }
}
