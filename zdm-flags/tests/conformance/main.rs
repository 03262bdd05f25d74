//! The public suites of others: flagd's evaluator and schema, JsonLogic, and vectors that were computed with
//! the public engines. They are read from the folder that `ZDM_CONFORMANCE` names.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod flagd_evaluator;
mod flagd_schemas;
mod jsonlogic;
mod vectors;

use std::path::PathBuf;

use serde_json::Value;

/// The folder of the suites. Without it a test is skipped, visibly; in CI that is a failure.
fn suites(test: &str) -> Option<PathBuf> {
    match std::env::var_os("ZDM_CONFORMANCE") {
        Some(folder) => {
            let folder = PathBuf::from(folder);
            assert!(folder.is_dir(), "ZDM_CONFORMANCE is {}, which is no folder", folder.display());
            Some(folder)
        }
        None => {
            let in_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
            assert!(!in_ci, "{test}: ZDM_CONFORMANCE must name the folder of the suites in CI");
            println!("{test}: skipped, ZDM_CONFORMANCE does not name the folder of the suites");
            None
        }
    }
}

fn read(path: &std::path::Path) -> Value {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Equal as JSON values, with 1 equal to 1.0.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}
