//! `cargo xtask test --servers`: the package against identity providers that others wrote.
//!
//! They run on Java and come by Maven; `tests/providers/pom.xml` pins their versions. What a machine without either
//! cannot run is told apart from what passed.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::node::{self, Node};
use crate::process::{self, step};
use crate::test::{self, REPORTER, Summary};
use crate::toolchain;

/// The oldest Java that all servers run on.
const JAVA_FLOOR: u32 = 17;
/// Debian's Java of each release, which is new enough since bookworm.
const DEBIAN_JAVA: &str = "default-jre-headless";
/// Where that package puts it, whatever else is first in the path.
const DEBIAN_JAVA_BINARY: &str = "/usr/lib/jvm/default-java/bin/java";
/// Debian's Maven.
const DEBIAN_MAVEN: &str = "maven";
/// The servers' versions, and where Maven puts them.
const POM: &str = "tests/providers/pom.xml";
/// Where the servers are, one folder each.
const FOLDER: &str = "target/servers";
/// The pom that a server's folder was filled by, in that folder.
const STAMP: &str = ".pom.xml";
/// How long a server's download may take: 180 MB at most.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(20 * 60);

/// A server that the tests start.
struct Server {
    /// Its folder, and the id of the pom's execution that fills it.
    name: &'static str,
    /// The goal of that execution.
    goal: &'static str,
    /// What the names of its folders in an archive begin with, where it comes as an archive.
    archive: Option<&'static str>,
    /// What the names of its environment variables begin with.
    variable: &'static str,
}

/// All servers.
const SERVERS: [Server; 2] = [
    Server { name: "keycloak", goal: "dependency:unpack", archive: Some("keycloak-"), variable: "KEYCLOAK" },
    Server {
        name: "mock-oauth2-server",
        goal: "dependency:copy-dependencies",
        archive: None,
        variable: "MOCK_OAUTH2_SERVER",
    },
];

/// What the tests need of the machine.
enum Found<T> {
    /// It is there.
    Here(T),
    /// It is not, and this is why.
    Missing(String),
}

/// Builds, gets the servers, and runs the tests against those that are there.
pub(crate) fn test(root: &Path) -> Result<ExitCode> {
    let mut summary = Summary::default();
    if !test::build(root, &mut summary) {
        summary.run("servers", || bail!("not run, as the build failed"));
        return Ok(summary.finish());
    }
    let mut variables = Vec::new();
    for server in &SERVERS {
        match server.ready(root) {
            Ok(Found::Here((folder, java))) => {
                variables.push((format!("{}_FOLDER", server.variable), folder.into_os_string()));
                variables.push(("JAVA".to_owned(), java.into_os_string()));
            }
            Ok(Found::Missing(reason)) => {
                summary.not_run(server.name, &reason);
                variables.push((format!("{}_NOT_RUN", server.variable), reason.into()));
            }
            Err(error) => {
                variables.push((format!("{}_NOT_RUN", server.variable), "it could not be fetched".into()));
                summary.run(server.name, || Err(error));
            }
        }
    }
    // Tests of a server that is not there say why they are skipped; others need none.
    summary.run("servers", || {
        let files = test::test_files(root, "tests/providers")?;
        let node = Node::current(root)?;
        step(&node.name());
        let mut command = node.command(root)?;
        // What another shell has set is no server of this run.
        for server in &SERVERS {
            command.env_remove(format!("{}_FOLDER", server.variable));
        }
        // One file at a time: each starts a Java.
        command.args(["--test", REPORTER, "--test-concurrency=1"]).args(files).envs(variables);
        process::run(&mut command)
    });
    Ok(summary.finish())
}

impl Server {
    /// The server's folder, filled if need be, and the Java that runs it.
    fn ready(&self, root: &Path) -> Result<Found<(PathBuf, PathBuf)>> {
        let java = match java()? {
            Found::Here(java) => java,
            Found::Missing(reason) => return Ok(Found::Missing(reason)),
        };
        let folder = root.join(FOLDER).join(self.name);
        let pom = fs::read(root.join(POM)).with_context(|| format!("cannot read {POM}"))?;
        if fs::read(folder.join(STAMP)).is_ok_and(|stamp| stamp == pom) {
            return Ok(Found::Here((self.home(&folder)?, java)));
        }
        let maven = match maven()? {
            Found::Here(maven) => maven,
            Found::Missing(reason) => return Ok(Found::Missing(reason)),
        };
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        step(&format!("maven: {}", self.name));
        let mut command = Command::new(maven);
        command.current_dir(root).args(["--batch-mode", "--no-transfer-progress", "--quiet", "-Dstyle.color=never"]);
        command.args(["--file", POM]).arg(format!("{}@{}", self.goal, self.name));
        process::run_within(&mut command, DOWNLOAD_LIMIT)?;
        let home = self.home(&folder)?;
        // Written last, so a download that was cut short is made again.
        fs::write(folder.join(STAMP), pom)?;
        Ok(Found::Here((home, java)))
    }

    /// What the tests are told of the server's folder: where its archive has it, or the folder itself.
    fn home(&self, folder: &Path) -> Result<PathBuf> {
        let Some(start) = self.archive else { return Ok(folder.to_path_buf()) };
        for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(start) {
                return Ok(entry.path());
            }
        }
        bail!("{} has no folder {start}*", folder.display())
    }
}

/// A Java that is new enough, installed where that is possible.
fn java() -> Result<Found<PathBuf>> {
    tool(&format!("Java {JAVA_FLOOR} or later"), DEBIAN_JAVA, || {
        let home = env::var_os("JAVA_HOME").map(|home| PathBuf::from(home).join("bin/java"));
        let candidates = home.into_iter().chain(["java", DEBIAN_JAVA_BINARY].map(PathBuf::from));
        candidates.into_iter().find(|java| java_version(java).is_some_and(|version| version >= JAVA_FLOOR))
    })
}

/// The major version in a line like `openjdk 17.0.15 2025-04-15`; before Java 9 there was no such option.
fn java_version(java: &Path) -> Option<u32> {
    let answer = process::probe(Command::new(java).arg("--version"))?;
    answer.split_whitespace().nth(1)?.split(['.', '-', '+']).next()?.parse().ok()
}

/// Maven, installed where that is possible.
fn maven() -> Result<Found<PathBuf>> {
    tool("Maven", DEBIAN_MAVEN, || {
        let program = node::with_suffix("mvn");
        process::probe(Command::new(&program).arg("--version")).map(|_| program.into())
    })
}

/// A tool that is there, or a Debian package has; `find` looks for it.
fn tool(name: &str, debian_package: &str, find: impl Fn() -> Option<PathBuf>) -> Result<Found<PathBuf>> {
    if let Some(program) = find() {
        return Ok(Found::Here(program));
    }
    let missing = format!("{name} was not found");
    if !toolchain::can_install_debian_packages() {
        return Ok(Found::Missing(format!("{missing}: install it (on Debian, {debian_package})")));
    }
    toolchain::install_debian_packages(&missing, &[debian_package])?;
    find().map(Found::Here).with_context(|| format!("{missing}, though Debian's {debian_package} is installed"))
}
