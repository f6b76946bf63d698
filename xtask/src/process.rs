//! Running other programs: what is printed, what a failure says, how long one may take.

#[cfg(unix)]
use std::io;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

/// Says what is being done, so that a long step is seen to be under way.
pub(crate) fn step(text: &str) {
    println!("==> {text}");
}

/// The command as one would type it, for messages: its program without the folder.
fn line(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let words = std::iter::once(program.file_name().unwrap_or(program.as_os_str())).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Runs a command on this terminal to its end; anything but success is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start `{}`", line(command)))?;
    finished(command, status)
}

/// Runs a command and returns what it wrote to standard output; its errors go to this terminal.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    command.stderr(Stdio::inherit());
    let output = command.output().with_context(|| format!("cannot start `{}`", line(command)))?;
    finished(command, output.status)?;
    Ok(output.stdout)
}

/// What a program says about itself, or `None` where it is absent or fails; nothing is shown.
pub(crate) fn probe(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Runs a command on this terminal, for at most `limit`: then it is ended, and that is an error.
pub(crate) fn run_within(command: &mut Command, limit: Duration) -> Result<()> {
    let mut child = command.spawn().with_context(|| format!("cannot start `{}`", line(command)))?;
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return finished(command, status);
        }
        if Instant::now() >= end {
            child.kill()?;
            child.wait()?;
            bail!("`{}` did not end within {} s", line(command), limit.as_secs());
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Becomes the command where the system can do that, so that Ctrl-C, a signal and the exit status are all its own.
#[cfg(unix)]
pub(crate) fn replace_by(command: &mut Command) -> Result<std::process::ExitCode> {
    use std::io::Write;
    use std::os::unix::process::CommandExt;
    io::stdout().flush()?;
    let error = command.exec();
    Err(anyhow!(error).context(format!("cannot start `{}`", line(command))))
}

/// Runs the command on this terminal and passes its exit status on; Ctrl-C reaches both.
#[cfg(not(unix))]
pub(crate) fn replace_by(command: &mut Command) -> Result<std::process::ExitCode> {
    let status = command.status().with_context(|| format!("cannot start `{}`", line(command)))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok(std::process::ExitCode::from(code))
}

/// Turns an exit status into success or an error that names the command.
fn finished(command: &Command, status: ExitStatus) -> Result<()> {
    if status.success() { Ok(()) } else { Err(anyhow!("`{}` failed ({status})", line(command))) }
}
