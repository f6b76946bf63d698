//! `cargo xtask`: one command each to build, run, test and measure obo-edge on a new machine.

mod commands;
mod node;
mod process;
mod servers;
mod sizes;
mod test;
mod toolchain;
mod wasm;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

/// What `cargo xtask` prints when it does not understand its arguments.
const USAGE: &str = "\
cargo xtask build          set up, build pkg/wasm, print sizes, fail past the budget
cargo xtask dev [--once]   build, then run the example against local servers
cargo xtask test [part]    build, then run all tests, or one of: native lint types node workers package
cargo xtask test --servers
                           build, then test the package against Keycloak and mock-oauth2-server, which need Java
cargo xtask bench          build, then measure";

/// Runs the command and turns its outcome into an exit status.
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Calls the command that the arguments name.
fn dispatch(arguments: &[String]) -> Result<ExitCode> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["build"] => commands::build(&root()?),
        ["dev"] => commands::dev(&root()?, false),
        ["dev", "--once"] => commands::dev(&root()?, true),
        ["test"] => test::all(&root()?),
        ["test", "--servers"] => servers::test(&root()?),
        ["test", part] => test::one(&root()?, part),
        ["bench"] => commands::bench(&root()?),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        _ => {
            eprintln!("{USAGE}");
            Ok(ExitCode::from(2))
        }
    }
}

/// The checkout, which cargo names when it runs a workspace's binary.
fn root() -> Result<PathBuf> {
    let crate_folder = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let crate_folder = crate_folder.context("CARGO_MANIFEST_DIR is not set: start this program as `cargo xtask`")?;
    match crate_folder.parent() {
        Some(root) => Ok(root.to_path_buf()),
        None => bail!("{} has no parent folder", crate_folder.display()),
    }
}
