//! Finding a Rust toolchain that builds for wasm32-unknown-unknown, or setting one up.
//!
//! std is compiled from its source, by whichever toolchain: the precompiled one brings what prints a panic, which
//! nobody sees in this target, and that costs a tenth of the module.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::{self, step};

/// The target of the JavaScript face.
pub(crate) const TARGET: &str = "wasm32-unknown-unknown";
/// Where wasm is compiled: a folder of its own, so that native and wasm builds do not undo each other.
pub(crate) const TARGET_FOLDER: &str = "target/wasm";
/// Debian's current Rust, with the source of std, which it does not ship compiled for the target.
const DEBIAN_PACKAGES: [&str; 6] =
    ["rustc-web", "cargo-web", "rust-web-src", "rust-web-llvm", "libstd-rust-web-dev", "lld-22"];
/// A panic's message goes nowhere in this target, so neither it nor what formats it is compiled in. Ciphers and digests
/// are the compact ones: what they work on is small, a hit costs no more, and the module is 2 kB less gzipped.
const LEAN_RUSTFLAGS: &str = "-Zlocation-detail=none -Zfmt-debug=none -Zunstable-options -Cpanic=immediate-abort \
    --cfg aes_backend_soft=\"compact\" --cfg sha2_backend_soft=\"compact\"";
/// Debian's clippy of the same version.
const DEBIAN_CLIPPY: &str = "rust-web-clippy";
/// How long rustup may try: a server that cannot be reached would otherwise hold a build for minutes.
const RUSTUP_LIMIT: Duration = Duration::from_secs(60);

/// A toolchain that builds for the target.
#[derive(Clone, Copy)]
pub(crate) enum Toolchain {
    /// The cargo that runs this program, with rustup's source of std.
    Own,
    /// Debian's packages.
    Debian,
}

impl Toolchain {
    /// Finds a toolchain for the target, or sets one up; says so where that takes long.
    pub(crate) fn find() -> Result<Toolchain> {
        if source_is_installed() {
            return Ok(Toolchain::Own);
        }
        // Debian's packages are only there because rustup could not help before.
        if debian_packages_are_installed(&DEBIAN_PACKAGES) {
            return Ok(Toolchain::Debian);
        }
        let refusal = match add_by_rustup(&["component", "add", "rust-src"]) {
            Ok(()) if source_is_installed() => return Ok(Toolchain::Own),
            Ok(()) => "rustup added rust-src to another toolchain".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        install_debian_packages(&refusal, &DEBIAN_PACKAGES)
            .context("the source of Rust's std is missing: install it with `rustup component add rust-src`")?;
        Ok(Toolchain::Debian)
    }

    /// What builds, for a line on the screen.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Toolchain::Own => "this cargo, std from source",
            Toolchain::Debian => "Debian's cargo, std from source",
        }
    }

    /// `cargo <subcommand>` for the target, in the checkout, with a target folder that native builds do not touch.
    pub(crate) fn cargo(self, root: &Path, subcommand: &str) -> Command {
        let mut command = match self {
            Toolchain::Own => own_cargo(root, subcommand),
            Toolchain::Debian => debian_cargo(root, subcommand),
        };
        // -Z is unlocked in a stable release by this variable only.
        command.env("RUSTC_BOOTSTRAP", "1").env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", LEAN_RUSTFLAGS);
        // Either of these would be used instead of the target's own flags, and the module would be another.
        command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        command.args(["-Z", "build-std=std,panic_abort", "-Z", "build-std-features=optimize_for_size"]);
        command.args(["--target", TARGET, "--target-dir"]).arg(root.join(TARGET_FOLDER));
        command
    }

    /// Makes sure that `cargo clippy` runs for the target.
    pub(crate) fn ensure_clippy(self) -> Result<()> {
        match self {
            Toolchain::Own => ensure_component("clippy", "cargo-clippy"),
            Toolchain::Debian if debian_packages_are_installed(&[DEBIAN_CLIPPY]) => Ok(()),
            Toolchain::Debian => install_debian_packages("clippy for the target", &[DEBIAN_CLIPPY]),
        }
    }
}

/// `cargo <subcommand>` of the toolchain that runs this program, in the checkout.
pub(crate) fn own_cargo(root: &Path, subcommand: &str) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root).arg(subcommand);
    command
}

/// Debian's `cargo <subcommand>`, in the checkout.
fn debian_cargo(root: &Path, subcommand: &str) -> Command {
    // A subcommand is started directly: cargo would look in its own home first and find rustup's.
    let program = if subcommand == "clippy" { "/usr/bin/cargo-clippy" } else { "/usr/bin/cargo" };
    let mut command = Command::new(program);
    // What rustup and an outer cargo set for their children would lead back to their toolchain.
    for variable in ["RUSTUP_TOOLCHAIN", "RUST_RECURSION_COUNT", "RUSTDOC", "LD_LIBRARY_PATH"] {
        command.env_remove(variable);
    }
    command.env("CARGO", "/usr/bin/cargo").env("RUSTC", "/usr/bin/rustc");
    command.current_dir(root).arg(subcommand);
    command
}

/// Whether the rustc that cargo uses has the source of std beside it.
fn source_is_installed() -> bool {
    let sysroot = process::probe(rustc().args(["--print", "sysroot"]));
    sysroot.is_some_and(|sysroot| Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/Cargo.lock").is_file())
}

/// The rustc that cargo uses.
fn rustc() -> Command {
    Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
}

/// Makes sure that a component of the own toolchain (`clippy`, `rustfmt`) is there; `program` is what it installs.
pub(crate) fn ensure_component(component: &str, program: &str) -> Result<()> {
    if process::probe(Command::new(program).arg("--version")).is_some() {
        return Ok(());
    }
    add_by_rustup(&["component", "add", component])
        .with_context(|| format!("{component} is missing: install it with `rustup component add {component}`"))
}

/// `rustup <arguments>`, within the time limit.
fn add_by_rustup(arguments: &[&str]) -> Result<()> {
    if process::probe(Command::new("rustup").arg("--version")).is_none() {
        bail!("rustup is not installed");
    }
    step(&format!("rustup {}", arguments.join(" ")));
    let mut command = Command::new("rustup");
    // One attempt, ended when nothing has come for a while: a slow server is waited for, an absent one is not.
    command.args(arguments).env("RUSTUP_MAX_RETRIES", "0").env("RUSTUP_DOWNLOAD_TIMEOUT", "15");
    process::run_within(&mut command, RUSTUP_LIMIT)
}

/// Whether this is Debian, with its package manager.
fn is_debian() -> bool {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    release.lines().any(|line| line == "ID=debian")
        && process::probe(Command::new("apt-get").arg("--version")).is_some()
}

/// Whether all of these Debian packages are installed.
fn debian_packages_are_installed(packages: &[&str]) -> bool {
    let answer = process::probe(Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}\n"]).args(packages));
    answer.is_some_and(|answer| answer.lines().all(|status| status == "installed"))
}

/// Whether Debian's packages can be installed here without asking anybody.
pub(crate) fn can_install_debian_packages() -> bool {
    is_debian() && is_root()
}

/// Whether this is root.
fn is_root() -> bool {
    process::probe(Command::new("id").arg("-u")).is_some_and(|id| id == "0")
}

/// Installs Debian packages and says why; an error says what to do where this is not Debian or not permitted.
pub(crate) fn install_debian_packages(reason: &str, packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if !is_debian() {
        bail!("{reason}, and this is not Debian, whose packages could stand in");
    }
    let is_root = is_root();
    if !is_root && process::probe(Command::new("sudo").arg("--version")).is_none() {
        bail!("{reason}, and Debian's packages need root: run as root `apt-get update && apt-get install {list}`");
    }
    step(&format!("{reason}: installing Debian's {list}"));
    let apt_get = |arguments: &[&str]| {
        let prefix: &[&str] = if is_root { &[] } else { &["sudo"] };
        let words = [prefix, &["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y"], arguments].concat();
        let (program, rest) = words.split_first().context("apt-get")?;
        process::run(Command::new(program).args(rest))
    };
    // Without the security suite's newest lists, apt offers a Rust that is too old.
    apt_get(&["update"])?;
    apt_get(&[&["install", "--no-install-recommends"], packages].concat())
}
