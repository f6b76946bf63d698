//! `cargo xtask test`: every part runs, then one line tells how each went.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::node::{self, Node};
use crate::process::{self, step};
use crate::toolchain::{self, Toolchain};
use crate::{sizes, wasm};

/// A part of the tests.
struct Part {
    /// What selects it on the command line.
    name: &'static str,
    /// Whether it needs `pkg/wasm`.
    needs_build: bool,
    /// Runs it, with the runner's own output.
    run: fn(&Path) -> Result<()>,
}

/// All parts, in the order in which they run.
const PARTS: [Part; 6] = [
    Part { name: "native", needs_build: false, run: native },
    Part { name: "lint", needs_build: false, run: lint },
    Part { name: "types", needs_build: false, run: types },
    Part { name: "node", needs_build: true, run: node_tests },
    Part { name: "workers", needs_build: true, run: workers },
    Part { name: "package", needs_build: true, run: package },
];

/// One form of report, on a terminal and in a log, in every version of Node.
pub(crate) const REPORTER: &str = "--test-reporter=spec";

/// Runs all parts.
pub(crate) fn all(root: &Path) -> Result<ExitCode> {
    run_parts(root, &PARTS.iter().collect::<Vec<_>>())
}

/// Runs one part.
pub(crate) fn one(root: &Path, name: &str) -> Result<ExitCode> {
    let part = PARTS.iter().find(|part| part.name == name);
    let names = PARTS.map(|part| part.name).join(", ");
    run_parts(root, &[part.with_context(|| format!("no part of the tests is called {name}: there are {names}"))?])
}

/// Builds where a part needs it, runs every part even if one fails, and sums up.
fn run_parts(root: &Path, parts: &[&Part]) -> Result<ExitCode> {
    let mut summary = Summary::default();
    let is_built = parts.iter().any(|part| part.needs_build) && build(root, &mut summary);
    for part in parts {
        if part.needs_build && !is_built {
            summary.run(part.name, || bail!("not run, as the build failed"));
        } else {
            summary.run(part.name, || (part.run)(root));
        }
    }
    Ok(summary.finish())
}

/// Builds `pkg/wasm`; returns whether there is one to test.
pub(crate) fn build(root: &Path, summary: &mut Summary) -> bool {
    let mut is_built = false;
    summary.run("build", || {
        node::install_packages(root)?;
        let tools = Node::at_least_floor(root)?;
        let built = wasm::build(root, &tools)?;
        // A package past its budget fails the build, yet can be tested.
        is_built = true;
        sizes::report(root, &tools, &built)
    });
    is_built
}

/// How each part went.
#[derive(Default)]
pub(crate) struct Summary {
    /// One line for each part.
    lines: Vec<String>,
    /// Whether any part failed.
    failed: bool,
}

impl Summary {
    /// Runs a part below its heading.
    pub(crate) fn run(&mut self, name: &str, part: impl FnOnce() -> Result<()>) {
        println!("\n######## {name}");
        let start = Instant::now();
        let outcome = part();
        let seconds = start.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => self.lines.push(format!("passed  {name:<8} {seconds:>7.1} s")),
            Err(error) => {
                eprintln!("error: {error:#}");
                self.failed = true;
                self.lines.push(format!("FAILED  {name:<8} {seconds:>7.1} s  {error:#}"));
            }
        }
    }

    /// Tells of a part that this machine cannot run, which is neither a success nor a failure.
    pub(crate) fn not_run(&mut self, name: &str, reason: &str) {
        println!("\n######## {name}\nnot run: {reason}");
        self.lines.push(format!("not run {name:<8} {reason}"));
    }

    /// Prints the lines; any failure fails the whole.
    pub(crate) fn finish(self) -> ExitCode {
        println!("\n######## summary\n{}", self.lines.join("\n"));
        if self.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

/// Does all of these, even if one fails, and names those that did.
fn every<const COUNT: usize>(outcomes: [Result<()>; COUNT]) -> Result<()> {
    let failures: Vec<String> =
        outcomes.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("; ")) }
}

/// The core's tests, on this machine's own processor.
fn native(root: &Path) -> Result<()> {
    process::run(toolchain::own_cargo(root, "test").arg("--workspace"))
}

/// Formatting, and clippy for this machine and for the target.
fn lint(root: &Path) -> Result<()> {
    every([formatting(root), clippy(root), clippy_for_wasm(root)])
}

/// `cargo fmt --check`.
fn formatting(root: &Path) -> Result<()> {
    toolchain::ensure_component("rustfmt", "cargo-fmt")?;
    step("cargo fmt --all --check");
    process::run(toolchain::own_cargo(root, "fmt").args(["--all", "--check"]))
}

/// Clippy for this machine.
fn clippy(root: &Path) -> Result<()> {
    toolchain::ensure_component("clippy", "cargo-clippy")?;
    step("cargo clippy");
    process::run(toolchain::own_cargo(root, "clippy").args(["--workspace", "--all-targets", "--", "-D", "warnings"]))
}

/// Clippy for the target, with the JavaScript face.
fn clippy_for_wasm(root: &Path) -> Result<()> {
    let toolchain = Toolchain::find()?;
    toolchain.ensure_clippy()?;
    step(&format!("cargo clippy for {} ({})", toolchain::TARGET, toolchain.name()));
    let mut command = toolchain.cargo(root, "clippy");
    command.args(["--package", "obo-edge", "--lib", "--features", "js", "--", "-D", "warnings"]);
    process::run(&mut command)
}

/// The package's declarations, checked against the programs that use them.
fn types(root: &Path) -> Result<()> {
    let project = "tests/types/tsconfig.json";
    if !root.join(project).is_file() {
        bail!("{project} is missing");
    }
    node::install_packages(root)?;
    let tools = Node::at_least_floor(root)?;
    step(&format!("tsc {}", node::package_version(root, "typescript")?));
    process::run(tools.tool(root, "tsc")?.args(["--noEmit", "-p", project]))
}

/// The package in Node, the oldest supported one where the machine has that.
fn node_tests(root: &Path) -> Result<()> {
    let files = test_files(root, "tests/node")?;
    let node = Node::at_least_floor(root)?;
    step(&node.name());
    process::run(node.command(root)?.args(["--test", REPORTER]).args(files))
}

/// The package in real workerd, the newest and the oldest one that it promises. Each comes with a miniflare of
/// its own time: today's does not start the old one.
fn workers(root: &Path) -> Result<()> {
    let files = test_files(root, "tests/workers")?;
    let node = Node::current(root)?;
    every(["miniflare", "miniflare-20260426"].map(|package| {
        let version = format!("miniflare {}", node::package_version(root, package)?);
        step(&format!("{version} in {}", node.name()));
        let mut command = node.command(root)?;
        // One file at a time: each starts servers and measures waits.
        command.args(["--test", REPORTER, "--test-concurrency=1"]).args(&files).env("MINIFLARE_PACKAGE", package);
        process::run(&mut command).context(version)
    }))
}

/// The packed package, installed in an empty Worker project and bundled by wrangler.
fn package(root: &Path) -> Result<()> {
    let template = root.join("tests/package");
    for file in ["package.json", "wrangler.toml", "src/index.js"] {
        if !template.join(file).is_file() {
            bail!("tests/package/{file} is missing");
        }
    }
    let node = Node::current(root)?;
    let folder = root.join("target/package-test");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let project = folder.join("worker");
    copy_folder(&template, &project)?;

    step("npm pack");
    process::run(node::npm(&root.join("pkg"))?.arg("pack").arg("--pack-destination").arg(&folder))?;
    let packed = files_ending(&folder, ".tgz")?;
    let [packed] = packed.as_slice() else { bail!("npm pack made {} packages", packed.len()) };

    step("npm install in an empty Worker project");
    process::run(node::npm(&project)?.args(["install", "--no-audit", "--no-fund"]).arg(packed))?;

    step(&format!("wrangler {} deploy --dry-run", node::package_version(root, "wrangler")?));
    let mut command = node.tool(root, "wrangler")?;
    command.current_dir(&project).args(["deploy", "--dry-run", "--outdir", "dist"]);
    process::run(&mut command)?;
    if files_ending(&project.join("dist"), ".wasm")?.is_empty() {
        bail!("wrangler's output has no wasm module");
    }
    Ok(())
}

/// The test files of a folder, as seen from the checkout; none is an error, for what is not there has not passed.
pub(crate) fn test_files(root: &Path, folder: &str) -> Result<Vec<PathBuf>> {
    let files = files_ending(&root.join(folder), ".test.js").unwrap_or_default();
    if files.is_empty() {
        bail!("{folder} is missing or has no *.test.js");
    }
    Ok(files.iter().filter_map(|file| file.file_name()).map(|name| Path::new(folder).join(name)).collect())
}

/// The files of a folder whose names end so, in order.
fn files_ending(folder: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().ends_with(ending) {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// Copies a folder and what is below it.
fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
