//! Lines about what is going on, each with the seconds since the start.

use std::time::Instant;

/// Prints progress to standard error.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    label: String,
}

impl Progress {
    /// Starts the clock; `label` leads every line.
    pub fn start(label: impl Into<String>) -> Self {
        Self { started: Instant::now(), label: label.into() }
    }

    /// Prints one line.
    pub fn say(&self, message: impl AsRef<str>) {
        eprintln!("{} {:5.1} s  {}", self.label, self.seconds(), message.as_ref());
    }

    /// Seconds since the start.
    pub fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}
