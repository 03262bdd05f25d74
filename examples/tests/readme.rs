//! The program on the first screen of the README is the one that is compiled and run here.

use std::process::Command;

use zdm_examples::live_migration::options::TemporaryDirectory;

const README: &str = include_str!("../../README.md");
const PROGRAM: &str = include_str!("../src/bin/first-steps.rs");

#[test]
fn the_readme_shows_the_program_that_runs() {
    // The title line of the file is for `cargo doc`; the README has a sentence of its own.
    let program = PROGRAM.split_once("\n\n").unwrap().1;
    assert!(README.contains(&format!("```rust\n{program}```")), "README.md and first-steps.rs differ");

    let dir = TemporaryDirectory::create().unwrap();
    for run in ["from old to new", "once more, on what is complete"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_first-steps"));
        let output = command.current_dir(dir.path()).output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        match run {
            "from old to new" => assert!(output.status.success(), "{complaint}"),
            // Back from `Complete` is a new migration, and the error says so.
            _ => assert!(!output.status.success() && complaint.contains("new migration"), "{complaint}"),
        }
    }
}
