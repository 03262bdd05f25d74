use std::path::Path;

use serde_json::{Value, json};
use zdm_flags::definition::{Finding, ParseError, Severity};
use zdm_flags::lint;

use super::{read, suites};

#[test]
fn files_that_must_validate_and_files_that_must_not() {
    let Some(folder) = suites("flagd schemas") else { return };
    let folder = folder.join("flagd-schemas/json/test");
    let (mut accepted, mut refused) = (0, 0);
    for kind in ["flagd", "flags", "targeting"] {
        for path in json_files(&folder.join(kind).join("positive")) {
            let errors = errors(kind, &path).unwrap();
            assert!(errors.is_empty(), "{}: {errors:#?}", path.display());
            accepted += 1;
        }
        for path in json_files(&folder.join(kind).join("negative")) {
            match errors(kind, &path) {
                Ok(errors) => {
                    assert!(!errors.is_empty(), "{} was accepted", path.display());
                    assert!(errors.iter().all(|error| error.path.starts_with('/')), "{errors:#?}");
                }
                Err(ParseError::NotFlags { path, .. }) => assert!(path.starts_with('/'), "{path}"),
                Err(other) => panic!("{}: {other}", path.display()),
            }
            refused += 1;
        }
    }
    assert_eq!((accepted, refused), (18, 18));
}

fn errors(kind: &str, path: &Path) -> Result<Vec<Finding>, ParseError> {
    let bytes = if kind == "targeting" { flag_with(&read(path)) } else { std::fs::read(path).unwrap() };
    let findings = lint(&bytes)?;
    Ok(findings.into_iter().filter(|finding| finding.severity == Severity::Error).collect())
}

/// The files of this folder are bare rules. One of them refers to an evaluator that it does not hold.
fn flag_with(targeting: &Value) -> Vec<u8> {
    let flag = json!({"state": "ENABLED", "variants": {"on": true}, "targeting": targeting});
    json!({"flags": {"flag": flag}, "$evaluators": {"some-ref": {"var": "email"}}}).to_string().into_bytes()
}

fn json_files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    files.sort();
    files
}
