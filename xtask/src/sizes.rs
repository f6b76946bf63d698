//! What the package weighs: digest, sizes, the largest parts, the budget.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use flate2::{Compression, GzBuilder};
use wasmparser::{KnownCustom, Name, Parser, Payload, TypeRef};

use crate::node::Node;
use crate::wasm::{self, Built};

/// Bytes in the kB of a budget.
const KILOBYTE: usize = 1000;
/// The most that the module may weigh, optimised and gzipped.
const WASM_BUDGET: usize = 92 * KILOBYTE;
/// The most that all JavaScript of an entry may weigh, minified and gzipped.
const SCRIPT_BUDGET: usize = 24 * KILOBYTE;
/// How many of the largest parts are listed.
const LISTED_PARTS: usize = 12;
/// The entries: what a user imports, and the file it means.
const ENTRIES: [(&str, &str); 3] =
    [("obo-edge", "pkg/index.js"), ("obo-edge/gateway", "pkg/gateway.js"), ("worker", "pkg/worker.js")];
/// The crate whose modules are listed one by one.
const OWN_CRATE: &str = "obo_edge";

/// Prints sizes and the largest parts; past the budget it is an error that says which.
pub(crate) fn report(root: &Path, tools: &Node, built: &Built) -> Result<()> {
    let wasm = fs::read(&built.wasm)?;
    let compressed = gzip(&wasm)?.len();
    println!("\nsha256 {}", wasm::sha256(&wasm));
    println!("{:>9} bytes  wasm", wasm.len());

    println!("\nlargest parts of the wasm");
    for (part, bytes) in largest_parts(&fs::read(&built.named)?, wasm.len())? {
        println!("{bytes:>9}  {:>5.1} %  {part}", bytes as f64 / wasm.len() as f64 * 100.0);
    }

    println!("\n gzipped    budget");
    let mut excesses = Vec::new();
    let mut weigh = |what: &str, bytes: usize, budget: usize| {
        println!("{bytes:>8}  {budget:>8}  {what}");
        if bytes > budget {
            excesses.push(format!("{what} is {} bytes over its budget of {budget}", bytes.saturating_sub(budget)));
        }
    };
    weigh("wasm", compressed, WASM_BUDGET);
    for (entry, file) in ENTRIES {
        if root.join(file).is_file() {
            weigh(entry, gzip(&bundle(root, tools, file)?)?.len(), SCRIPT_BUDGET);
        }
    }
    println!();
    if !excesses.is_empty() {
        bail!("{}", excesses.join("; "));
    }
    Ok(())
}

/// An entry as a Worker's bundler would ship it: everything it imports, minified, the module and jose apart.
fn bundle(root: &Path, tools: &Node, file: &str) -> Result<Vec<u8>> {
    let mut command = tools.tool(root, "esbuild")?;
    command.arg(file).args(["--bundle", "--minify", "--format=esm", "--conditions=workerd", "--log-level=warning"]);
    command.args(["--external:*.wasm", "--external:cloudflare:*", "--external:node:*", "--external:jose"]);
    crate::process::output(&mut command).with_context(|| format!("cannot bundle {file}"))
}

/// Some bytes as gzip compresses them at its best level.
fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().write(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

/// The largest parts of a module that still has names, largest first; `total` is its size without them.
fn largest_parts(named: &[u8], total: usize) -> Result<Vec<(String, usize)>> {
    let mut imported = 0;
    let mut bodies = Vec::new();
    let mut names = BTreeMap::new();
    let mut parts = BTreeMap::new();
    for payload in Parser::new(0).parse_all(named) {
        match payload? {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    if matches!(import?.ty, TypeRef::Func(_)) {
                        imported += 1;
                    }
                }
            }
            Payload::CodeSectionEntry(body) => bodies.push(body.range().len()),
            Payload::DataSection(data) => {
                parts.insert("(data)".to_owned(), data.range().len());
            }
            Payload::CustomSection(section) => {
                if let KnownCustom::Name(subsections) = section.as_known() {
                    for subsection in subsections {
                        if let Name::Function(map) = subsection? {
                            for naming in map {
                                let naming = naming?;
                                names.insert(naming.index, naming.name);
                            }
                        }
                    }
                }
            }
            _ => {}
        }
    }
    for (index, bytes) in (imported..).zip(bodies) {
        let part = part_of(names.get(&index).copied().unwrap_or_default());
        *parts.entry(part).or_default() += bytes;
    }
    let told: usize = parts.values().sum();
    parts.insert("(imports, exports, types, tables)".to_owned(), total.saturating_sub(told));
    let mut parts: Vec<_> = parts.into_iter().collect();
    parts.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    parts.truncate(LISTED_PARTS);
    Ok(parts)
}

/// The part that a function belongs to: module of this crate or of std, else the crate.
fn part_of(symbol: &str) -> String {
    let name = format!("{:#}", rustc_demangle::demangle(symbol));
    // `<&mut T as core::fmt::Write>::write_str`: the first path that names a crate.
    let paths = name.split(|letter: char| !(letter.is_alphanumeric() || letter == '_' || letter == ':'));
    let Some(path) =
        paths.map(|path| path.trim_end_matches(':')).find(|path| path.trim_start_matches(':').contains("::"))
    else {
        return "(exports, with what is inlined in them)".to_owned();
    };
    let segments: Vec<&str> = path.split("::").filter(|segment| !segment.is_empty()).collect();
    match segments.as_slice() {
        [library @ (OWN_CRATE | "core" | "alloc" | "std"), module, _, ..]
            if module.starts_with(|letter: char| letter.is_lowercase()) =>
        {
            format!("{library}::{module}")
        }
        [library, ..] => (*library).to_owned(),
        [] => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_belongs_to_the_first_crate_it_names() {
        assert_eq!(part_of("_ZN4core3fmt5write17h0123456789abcdefE"), "core::fmt");
        assert_eq!(part_of("obo_edge::exchange::Exchange::step"), "obo_edge::exchange");
        assert_eq!(part_of("<obo_edge::cache::memory::Memory>::get::<u32>"), "obo_edge::cache");
        assert_eq!(part_of("<&mut T as core::fmt::Write>::write_str"), "core::fmt");
        assert_eq!(part_of("obo_edge::run"), "obo_edge");
        assert_eq!(part_of("<serde_json::de::Deserializer<R>>::parse"), "serde_json");
        assert_eq!(part_of("__wbindgen_malloc"), "(exports, with what is inlined in them)");
        assert_eq!(part_of(""), "(exports, with what is inlined in them)");
    }

    #[test]
    fn gzip_has_a_header_and_is_smaller() {
        let compressed = gzip(&[b'a'; 1000]).unwrap();
        assert_eq!(compressed.get(..2), Some(&[0x1f, 0x8b][..]));
        assert!(compressed.len() < 100);
    }
}
