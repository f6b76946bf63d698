//! The commands that are one step each: build, dev, bench.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::node::Node;
use crate::{node, process, sizes, wasm};

/// Sets up, builds `pkg/wasm`, prints sizes, and fails past the budget.
pub(crate) fn build(root: &Path) -> Result<ExitCode> {
    node::install_packages(root)?;
    let tools = Node::at_least_floor(root)?;
    let built = wasm::build(root, &tools)?;
    sizes::report(root, &tools, &built)?;
    Ok(ExitCode::SUCCESS)
}

/// Builds, then runs the main job against local servers: until Ctrl-C, or once through.
pub(crate) fn dev(root: &Path, once: bool) -> Result<ExitCode> {
    build(root)?;
    let mut command = script(root, "tests/servers/main-job.js", &[])?;
    if once {
        command.arg("--once");
    }
    process::replace_by(&mut command)
}

/// Builds, then measures; the collector is exposed so that a measurement can begin on a clean heap.
pub(crate) fn bench(root: &Path) -> Result<ExitCode> {
    build(root)?;
    process::replace_by(&mut script(root, "tests/bench/bench.js", &["--expose-gc"])?)
}

/// A script of the checkout as a command for a Node that runs wrangler and miniflare.
fn script(root: &Path, path: &str, node_options: &[&str]) -> Result<std::process::Command> {
    if !root.join(path).is_file() {
        bail!("{path} is missing");
    }
    let mut command = Node::current(root)?.command(root)?;
    command.args(node_options).arg(path);
    Ok(command)
}
