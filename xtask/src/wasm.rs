//! From the crate to `pkg/wasm`: cargo build, then wasm-bindgen, then wasm-opt.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use wasm_bindgen_cli_support::Bindgen;

use crate::node::{self, Node};
use crate::process::{self, step};
use crate::toolchain::{TARGET, TARGET_FOLDER, Toolchain};

/// Where the package expects the module and its JavaScript.
const OUTPUT_FOLDER: &str = "pkg/wasm";
/// The name of the generated files.
const NAME: &str = "obo_edge";

/// The features that rustc's default target emits, and no other: `--all-features` writes a module that Node 20
/// does not load.
const FEATURES: [&str; 7] = [
    "--mvp-features",
    "--enable-bulk-memory",
    "--enable-nontrapping-float-to-int",
    "--enable-sign-ext",
    "--enable-mutable-globals",
    "--enable-reference-types",
    "--enable-multivalue",
];
/// Optimise for size until nothing gets smaller; control flow made anew first saves 0.8 % gzipped and costs no speed.
/// That low memory is unused holds where the stack lies lowest, as the linker puts it: its last kilobyte. Names stay
/// until the largest parts have been told apart.
const OPTIMISE: [&str; 8] = [
    "--flatten",
    "--rereloop",
    "-Oz",
    "--converge",
    "--low-memory-unused",
    "--one-caller-inline-max-function-size=20",
    "--always-inline-max-function-size=5",
    "-g",
];
/// Removes every section that only a developer reads.
const STRIP: [&str; 3] = ["--strip-debug", "--strip-producers", "--strip-target-features"];

/// What a build has made.
pub(crate) struct Built {
    /// The module of the package.
    pub(crate) wasm: PathBuf,
    /// The same module with the names of its functions.
    pub(crate) named: PathBuf,
}

/// Builds `pkg/wasm`; the generator and the optimiser run only where the compiled module or a tool has changed.
pub(crate) fn build(root: &Path, tools: &Node) -> Result<Built> {
    let generator = generator_version(root)?;
    let optimiser = node::package_version(root, "binaryen")?;
    let compiled = compile(root)?;

    let work = root.join(TARGET_FOLDER);
    let output = root.join(OUTPUT_FOLDER);
    let script = output.join(format!("{NAME}.js"));
    let built = Built { wasm: output.join(format!("{NAME}_bg.wasm")), named: work.join("named.wasm") };

    let stamp = work.join("obo-edge.stamp");
    // The flags and what is done to the script are in this very file, so its digest stands for them.
    let recipe = format!(
        "compiled {}\nwasm-bindgen {generator}\nbinaryen {optimiser}\nxtask {}\n",
        digest(&compiled)?,
        sha256(include_bytes!("wasm.rs")),
    );
    if built.named.is_file() && matches(&stamp, &recipe, &[&built.wasm, &script]) {
        return Ok(built);
    }

    let bindgen = work.join("bindgen.wasm");
    step(&format!("wasm-bindgen {generator}"));
    generate(&compiled, &output)?;
    fs::rename(&built.wasm, &bindgen)?;

    step(&format!("wasm-opt {optimiser}"));
    process::run(
        tools.tool(root, "wasm-opt")?.args(FEATURES).args(OPTIMISE).arg(&bindgen).arg("-o").arg(&built.named),
    )?;
    process::run(
        tools.tool(root, "wasm-opt")?.args(FEATURES).args(STRIP).arg(&built.named).arg("-o").arg(&built.wasm),
    )?;

    fs::write(&stamp, stamp_text(&recipe, &[&built.wasm, &script])?)?;
    Ok(built)
}

/// Compiles the crate with its JavaScript face and returns the module.
fn compile(root: &Path) -> Result<PathBuf> {
    let toolchain = Toolchain::find()?;
    step(&format!("cargo rustc for {TARGET} ({})", toolchain.name()));
    let mut command = toolchain.cargo(root, "rustc");
    // The crate type is named here: with two of them, as the manifest has, link-time optimisation is off.
    command.args(["--package", "obo-edge", "--lib", "--release", "--features", "js", "--crate-type", "cdylib"]);
    process::run(&mut command)?;
    Ok(root.join(TARGET_FOLDER).join(TARGET).join("release").join(format!("{NAME}.wasm")))
}

/// Generates the JavaScript and the module that it loads.
fn generate(compiled: &Path, output: &Path) -> Result<()> {
    if output.exists() {
        fs::remove_dir_all(output)?;
    }
    Bindgen::new()
        .input_path(compiled)
        .out_name(NAME)
        .web(true)?
        .typescript(false)
        // A trap leaves a damaged instance, which the package's wrappers replace by this function.
        .reset_state_function(true)
        .omit_default_module_path(true)
        .remove_producers_section(true)
        .demangle(false)
        .generate(output)
        .context("wasm-bindgen failed")?;
    silence_lost_closures(&output.join(format!("{NAME}.js")))
}

/// A promise may call back a closure of an instance that has been replaced. The generated code throws then, which
/// nobody can catch and which ends a Node process; what is lost has nothing to say, so it returns.
fn silence_lost_closures(script: &Path) -> Result<()> {
    const THROW: &str = "throw new Error('Cannot invoke closure from previous WASM instance');";
    let text = fs::read_to_string(script)?;
    if !text.contains(THROW) {
        bail!("wasm-bindgen writes closures of a replaced instance another way now: look at {}", script.display());
    }
    Ok(fs::write(script, text.replace(THROW, "return;"))?)
}

/// The generator's version, which must be the one that the crate was compiled against.
fn generator_version(root: &Path) -> Result<String> {
    let lock = fs::read_to_string(root.join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let generator = locked_version(&lock, "wasm-bindgen-cli-support")?;
    let library = locked_version(&lock, "wasm-bindgen")?;
    if generator != library {
        bail!(
            "Cargo.lock has wasm-bindgen {library} but wasm-bindgen-cli-support {generator}: \
             they must be equal, so pin both in Cargo.toml and xtask/Cargo.toml"
        );
    }
    Ok(generator.to_owned())
}

/// The version of a package in the text of a Cargo.lock.
fn locked_version<'lock>(lock: &'lock str, package: &str) -> Result<&'lock str> {
    let heading = format!("name = \"{package}\"\nversion = \"");
    let rest = lock.split_once(&heading).map(|(_, rest)| rest);
    let version = rest.and_then(|rest| rest.split_once('"')).map(|(version, _)| version);
    version.with_context(|| format!("Cargo.lock has no {package}"))
}

/// Whether the stamp says that these files were made by this recipe and not changed since.
fn matches(stamp: &Path, recipe: &str, files: &[&Path]) -> bool {
    let expected = stamp_text(recipe, files);
    fs::read_to_string(stamp).is_ok_and(|text| expected.is_ok_and(|expected| text == expected))
}

/// A recipe and the digests of what it has made.
fn stamp_text(recipe: &str, files: &[&Path]) -> Result<String> {
    let mut text = recipe.to_owned();
    for file in files {
        text.push_str(&digest(file)?);
        text.push('\n');
    }
    Ok(text)
}

/// The SHA-256 of a file, in hexadecimal.
fn digest(path: &Path) -> Result<String> {
    Ok(sha256(&fs::read(path).with_context(|| format!("cannot read {}", path.display()))?))
}

/// The SHA-256 of some bytes, in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locked_version_is_that_of_the_whole_name() {
        let lock = "name = \"wasm-bindgen-macro\"\nversion = \"1\"\n\nname = \"wasm-bindgen\"\nversion = \"0.2.130\"\n";
        assert_eq!(locked_version(lock, "wasm-bindgen").unwrap(), "0.2.130");
        assert!(locked_version(lock, "binaryen").is_err());
    }
}
