//! One process that plays the pods of simulated nodes.

use anyhow::{Result, bail};

/// Runs the simulation.
pub fn run(_args: &[String]) -> Result<()> {
    bail!("not yet")
}
