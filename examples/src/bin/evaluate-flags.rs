//! Evaluates flags for cases that come as JSON lines on standard input.
//!
//!     evaluate-flags --flags FILE [--flags FILE ..] [--bucketing NAME] [--now UNIX] [--explain] < CASES
//!     evaluate-flags --flags FILE [--flags FILE ..] --lint
//!
//! A case is `{"key", "type", "default", "targetingKey", "context"}`; the type is Boolean, String, Integer,
//! Float or Object. Each gives one line, in order: `{"value", "variant", "reason", "errorCode", "metadata"}`.
//! Later files count more. `--bucketing` is for flags that name none (default: flagd-v2). `--lint` prints what is wrong or
//! risky, and exits with 1 if there are errors.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

use std::io::{BufRead as _, Write as _};
use std::process::ExitCode;

use zdm_examples::flags::cases::Case;
use zdm_flags::bucketing::Bucketing;
use zdm_flags::definition::Severity;
use zdm_flags::source::FileSource;
use zdm_flags::{Flags, lint};

struct Settings {
    files: Vec<String>,
    bucketing: Bucketing,
    now: Option<i64>,
    explain: bool,
    lint: bool,
}

/// What `--help` prints.
const HELP: &str = r#"Evaluates flags for cases that come as JSON lines on standard input.

    evaluate-flags --flags FILE [--flags FILE ..] [--bucketing NAME] [--now UNIX] [--explain] < CASES
    evaluate-flags --flags FILE [--flags FILE ..] --lint

A case is {"key", "type", "default", "targetingKey", "context"}; the type is Boolean, String, Integer,
Float or Object. Each gives one line, in order: {"value", "variant", "reason", "errorCode", "metadata"}.
Later files count more. --bucketing is for flags that name none (default: flagd-v2). --lint prints what is wrong or
risky, and exits with 1 if there are errors."#;

fn main() -> ExitCode {
    if std::env::args().skip(1).any(|arg| arg == "--help" || arg == "-h") {
        println!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let outcome = settings().and_then(|settings| {
        if settings.lint {
            lint_files(&settings.files)
        } else {
            evaluate(&settings).map(|()| ExitCode::SUCCESS)
        }
    });
    outcome.unwrap_or_else(|message| {
        eprintln!("evaluate-flags: {message}");
        ExitCode::from(2)
    })
}

fn settings() -> Result<Settings, String> {
    let mut settings = Settings {
        files: Vec::new(),
        bucketing: Bucketing::default(),
        now: None,
        explain: false,
        lint: false,
    };
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{name} needs a value"));
        match name.as_str() {
            "--flags" => settings.files.push(value()?),
            "--bucketing" => {
                settings.bucketing = value()?.parse().map_err(|error| format!("--bucketing: {error}"))?
            }
            "--now" => settings.now = Some(value()?.parse().map_err(|error| format!("--now: {error}"))?),
            "--explain" => settings.explain = true,
            "--lint" => settings.lint = true,
            other => {
                return Err(format!(
                    "unknown argument {other:?}; it takes --flags, --bucketing, --now, --explain, --lint"
                ));
            }
        }
    }
    if settings.files.is_empty() { Err("--flags FILE is missing".to_owned()) } else { Ok(settings) }
}

fn lint_files(files: &[String]) -> Result<ExitCode, String> {
    let mut errors = false;
    for file in files {
        let bytes = std::fs::read(file).map_err(|error| format!("{file}: {error}"))?;
        match lint(&bytes) {
            Ok(findings) => {
                errors |= findings.iter().any(|finding| finding.severity == Severity::Error);
                for finding in findings {
                    println!("{file}: {finding}");
                }
            }
            Err(error) => {
                errors = true;
                println!("{file}: error: {error}");
            }
        }
    }
    Ok(if errors { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn evaluate(settings: &Settings) -> Result<(), String> {
    let chain = |error: &dyn std::error::Error| {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        text
    };
    let sources = settings.files.iter().map(FileSource::poll);
    let builder = sources
        .fold(Flags::builder().bucketing(settings.bucketing), |builder, source| builder.source(source));
    let flags = builder.build().map_err(|error| chain(&error))?.snapshot();
    let mut out = std::io::stdout().lock();
    for (number, line) in (1..).zip(std::io::stdin().lock().lines()) {
        let line = line.map_err(|error| format!("line {number}: {error}"))?;
        if line.trim().is_empty() {
            continue;
        }
        let result =
            Case::parse(&line).and_then(|case| case.evaluate(&flags, settings.now, settings.explain));
        let result = result.map_err(|message| format!("line {number}: {message}"))?;
        match writeln!(out, "{result}") {
            // Whoever reads has seen enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            other => other.map_err(|error| error.to_string())?,
        }
    }
    Ok(())
}
