use serde_json::Value;
use zdm_flags::targeting::Rule;

use super::{read, same, suites};

#[test]
fn the_suite_of_the_jsonlogic_project() {
    let Some(folder) = suites("jsonlogic") else { return };
    let cases = read(&folder.join("jsonlogic/tests.json"));
    let mut run = 0;
    let mut failed = Vec::new();
    for case in cases.as_array().unwrap().iter().filter_map(Value::as_array) {
        let [rule, data, expected] = case.as_slice() else { panic!("{case:?}") };
        run += 1;
        match Rule::parse(rule.to_string().as_bytes()) {
            Ok(compiled) => {
                let value = compiled.evaluate(data);
                if !same(&value, expected) {
                    failed.push(format!("{rule} over {data}: {value}, expected {expected}"));
                }
            }
            Err(findings) => failed.push(format!("{rule}: {findings:?}")),
        }
    }
    assert_eq!(failed, Vec::<String>::new());
    assert_eq!(run, 275);
}
