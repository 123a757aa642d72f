//! Executes each run of a schedule in a child process: an abort, a kill, an out-of-memory condition or a hang leaves
//! the schedule and its other pipelines intact. Not here: when runs start (`crate::schedule`).

use std::ffi::OsString;
use std::future::Future;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;

use datafusion::common::runtime::SpawnedTask;

use super::log;
use super::signals::{INTERRUPT, TERMINATE};
use crate::error::{Error, ErrorKind, Result};
use crate::job::RunReport;
use crate::report::Report;

/// The command that starts this program; unset if it is the current executable.
static PROGRAM: OnceLock<Vec<OsString>> = OnceLock::new();

/// Sets the command that starts this program: the executable, then its first arguments. For a process whose executable is
/// another program, such as an interpreter. The first call counts.
pub fn set_program(command: Vec<OsString>) {
    let _ = PROGRAM.set(command);
}

/// The command that starts this program.
fn program() -> std::io::Result<Command> {
    match PROGRAM.get().map(Vec::as_slice) {
        Some([executable, arguments @ ..]) => {
            let mut command = Command::new(executable);
            command.args(arguments);
            Ok(command)
        }
        _ => Ok(Command::new(std::env::current_exe()?)),
    }
}

/// How a child process ended.
pub(super) enum Ended {
    /// It has told everybody.
    Told(Result<RunReport>),
    /// It died without a report.
    Died(Error),
}

/// Runs `hfauto-pipe run` with these arguments, and returns its report, or its own error. Forwards `stop`. The error of a run
/// that died is `Internal` or `Resources` when a signal killed it.
///
/// # Errors
/// `Resources` when it cannot be started.
pub(super) async fn run(
    arguments: Vec<OsString>,
    stop: impl Future<Output = ErrorKind>,
) -> Result<Ended> {
    let cannot = |e: std::io::Error| {
        Error::new(ErrorKind::Resources, "cannot start a process for the run").source(e)
    };
    let folder = tempfile::Builder::new().prefix("hfauto-run-").tempdir().map_err(cannot)?;
    let report = folder.path().join("report.json");
    let mut child = program()
        .map_err(cannot)?
        .arg("run")
        .args(log::arguments())
        .arg("--supervised")
        .arg("--report")
        .arg(&report)
        // Last, because they end with the file's name.
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .map_err(cannot)?;
    // Stays open until the run has ended, because the run treats end of file as the death of the schedule.
    let mut orders = child.stdin.take();
    let mut ended = std::pin::pin!(SpawnedTask::spawn_blocking(move || child.wait()).join());
    let ended = tokio::select! {
        ended = ended.as_mut() => ended,
        kind = stop => {
            let order = if kind == ErrorKind::Interrupted { INTERRUPT } else { TERMINATE };
            if let Some(orders) = &mut orders {
                // Fails if it has just ended.
                let _ = orders.write_all(&[order]).and_then(|()| orders.flush());
            }
            ended.await
        }
    };
    let status = ended
        .map_err(|e| Error::new(ErrorKind::Internal, "waiting for the run failed").source(e))?
        .map_err(|e| Error::new(ErrorKind::Internal, "waiting for the run failed").source(e))?;
    drop(orders);
    let told = std::fs::read_to_string(&report).ok().and_then(|text| Report::from_json(&text).ok());
    match told.filter(|report| report.exit_code.is_some()) {
        Some(Report { error: None, run, .. }) if status.success() => {
            Ok(Ended::Told(Ok(run.unwrap_or_default())))
        }
        Some(Report { error: Some(error), .. }) => Ok(Ended::Told(Err(error.into_error()))),
        _ => Ok(Ended::Died(died(status))),
    }
}

/// The error of a run that ended without a report.
fn died(status: ExitStatus) -> Error {
    let Some(number) = status.signal() else {
        let code = status.code().unwrap_or(-1);
        let kind = match code {
            130 => ErrorKind::Interrupted,
            143 => ErrorKind::Terminated,
            _ => ErrorKind::Internal,
        };
        return Error::new(kind, format!("the run ended with {code} and left no report"));
    };
    let (name, kind) = match number {
        2 => ("SIGINT", ErrorKind::Interrupted),
        4 => ("SIGILL", ErrorKind::Internal),
        6 => ("SIGABRT", ErrorKind::Internal),
        7 => ("SIGBUS", ErrorKind::Internal),
        8 => ("SIGFPE", ErrorKind::Internal),
        9 => ("SIGKILL", ErrorKind::Resources),
        11 => ("SIGSEGV", ErrorKind::Internal),
        15 => ("SIGTERM", ErrorKind::Terminated),
        24 => ("SIGXCPU", ErrorKind::Resources),
        25 => ("SIGXFSZ", ErrorKind::Resources),
        _ => ("a signal", ErrorKind::Internal),
    };
    let error = Error::new(kind, format!("the run was killed by {name} ({number})"));
    match kind {
        ErrorKind::Resources => error.hint(
            "the system kills processes that use too much memory: give the run more, or lower `run.workers`",
        ),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_died_is_told_with_its_signal() {
        let check = |status: i32, kind, message: &str| {
            let error = died(ExitStatus::from_raw(status));
            assert_eq!((error.kind(), error.message()), (kind, message));
        };
        check(6, ErrorKind::Internal, "the run was killed by SIGABRT (6)");
        check(9, ErrorKind::Resources, "the run was killed by SIGKILL (9)");
        check(3 << 8, ErrorKind::Internal, "the run ended with 3 and left no report");
        check(143 << 8, ErrorKind::Terminated, "the run ended with 143 and left no report");
    }
}
