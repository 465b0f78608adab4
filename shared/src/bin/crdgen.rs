//! Prints the custom resource definitions as one JSON list that `kubectl apply -f -` takes.

use std::io::{self, Write};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": shared::api::crds()});
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, &list)?;
    writeln!(out)?;
    Ok(())
}
