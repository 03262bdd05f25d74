//! Says how many subjects get another variant when one flag file takes the place of another.
//!
//!     compare-flags OLD NEW [--keys FILE | --sample COUNT] [--bucketing NAME] [--max-moved PERCENT]
//!
//! The subjects are the lines of a file of targeting keys, or `user-0`, `user-1`, .. (default: 10,000 of them).
//! With `--max-moved` it exits with 1 if a flag moves more than that share of the subjects, for use before a
//! file goes out.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

use std::process::ExitCode;

use zdm_flags::bucketing::Bucketing;
use zdm_flags::{Context, churn};

/// What `--help` prints.
const HELP: &str = r#"Says how many subjects get another variant when one flag file takes the place of another.

    compare-flags OLD NEW [--keys FILE | --sample COUNT] [--bucketing NAME] [--max-moved PERCENT]

The subjects are the lines of a file of targeting keys, or user-0, user-1, .. (default: 10,000 of them).
With --max-moved it exits with 1 if a flag moves more than that share of the subjects, for use before a
file goes out."#;

fn main() -> ExitCode {
    if std::env::args().skip(1).any(|arg| arg == "--help" || arg == "-h") {
        println!("{HELP}");
        return ExitCode::SUCCESS;
    }
    run().unwrap_or_else(|message| {
        eprintln!("compare-flags: {message}");
        ExitCode::from(2)
    })
}

fn run() -> Result<ExitCode, String> {
    let mut files = Vec::new();
    let (mut keys, mut sample, mut most) = (None, 10_000_u32, 100.0_f64);
    let mut bucketing = Bucketing::default();
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{name} needs a value"));
        match name.as_str() {
            "--keys" => keys = Some(value()?),
            "--sample" => sample = value()?.parse().map_err(|error| format!("--sample: {error}"))?,
            "--bucketing" => bucketing = value()?.parse().map_err(|error| format!("--bucketing: {error}"))?,
            "--max-moved" => most = value()?.parse().map_err(|error| format!("--max-moved: {error}"))?,
            option if option.starts_with("--") => return Err(format!("unknown option {option:?}")),
            _ => files.push(name),
        }
    }
    let [old, new] = files.as_slice() else { return Err("it takes two flag files: OLD NEW".to_owned()) };
    let read = |path: &String| std::fs::read(path).map_err(|error| format!("{path}: {error}"));
    let keys: Vec<String> = match &keys {
        Some(path) => {
            let text = String::from_utf8(read(path)?).map_err(|error| format!("{path}: {error}"))?;
            text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
        }
        None => (0..sample).map(|number| format!("user-{number}")).collect(),
    };
    let subjects = keys.iter().map(|key| Context::key(key));
    let report =
        churn::compare(&read(old)?, &read(new)?, subjects, bucketing).map_err(|error| error.to_string())?;
    let mut exceeded = false;
    for churn in &report {
        let percent = 100.0 * churn.moved as f64 / churn.subjects.max(1) as f64;
        exceeded |= percent > most;
        println!("{}: {} of {} subjects move ({percent:.2} %)", churn.flag, churn.moved, churn.subjects);
        for (from, to, count) in &churn.moves {
            let name =
                |variant: &Option<String>| variant.clone().unwrap_or_else(|| "the code default".to_owned());
            println!("    {count} from {} to {}", name(from), name(to));
        }
    }
    if exceeded {
        println!("more than {most} % of the subjects move");
    }
    Ok(if exceeded { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
