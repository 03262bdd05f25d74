use std::fmt::{self, Write as _};

/// How serious a [`Finding`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// It works, but probably not as meant.
    Warning,
    /// It breaks the format or our rules.
    Error,
}

/// Something in a flag file that is wrong or risky, with the place where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How serious it is.
    pub severity: Severity,
    /// A JSON pointer into the file, such as `/flags/new-pricing/targeting/if/0`. Empty for the whole file.
    pub path: String,
    /// What is wrong, and what to do.
    pub message: String,
    /// The flag cannot be evaluated: callers get the code default and `PARSE_ERROR`. Other flags are not
    /// affected.
    pub disables_flag: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        let path = if self.path.is_empty() { "the file" } else { &self.path };
        write!(f, "{severity}: {path}: {}", self.message)
    }
}

/// Where in a document something is: a chain from the inside to the outside, so that walking costs
/// nothing until there is something to report.
#[derive(Clone, Copy)]
pub(crate) enum At<'a> {
    Root,
    Key(&'a At<'a>, &'a str),
    Index(&'a At<'a>, usize),
}

impl<'a> At<'a> {
    pub(crate) fn key(&'a self, key: &'a str) -> At<'a> {
        At::Key(self, key)
    }

    pub(crate) fn index(&'a self, index: usize) -> At<'a> {
        At::Index(self, index)
    }

    fn write(&self, out: &mut String) {
        match self {
            At::Root => {}
            At::Key(parent, key) => {
                parent.write(out);
                out.push('/');
                for part in key.chars() {
                    match part {
                        '~' => out.push_str("~0"),
                        '/' => out.push_str("~1"),
                        other => out.push(other),
                    }
                }
            }
            At::Index(parent, index) => {
                parent.write(out);
                // Writing to a string cannot fail.
                let _ = write!(out, "/{index}");
            }
        }
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        self.write(&mut out);
        f.write_str(&out)
    }
}

/// What was found, bounded: a file of nonsense must not fill the memory with complaints.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    found: Vec<Finding>,
    left_out: usize,
}

/// More than a person reads, and a bound for files of nonsense.
const MOST: usize = 1_000;

impl Findings {
    pub(crate) fn warning(&mut self, at: &At<'_>, message: impl Into<String>) {
        self.push(Severity::Warning, at, message.into(), false);
    }

    pub(crate) fn error(&mut self, at: &At<'_>, message: impl Into<String>) {
        self.push(Severity::Error, at, message.into(), false);
    }

    /// An error that makes the flag impossible to evaluate.
    pub(crate) fn fault(&mut self, at: &At<'_>, message: impl Into<String>) {
        self.push(Severity::Error, at, message.into(), true);
    }

    fn push(&mut self, severity: Severity, at: &At<'_>, message: String, disables_flag: bool) {
        if self.found.len() < MOST {
            self.found.push(Finding { severity, path: at.to_string(), message, disables_flag });
        } else {
            self.left_out += 1;
        }
    }

    pub(crate) fn append(&mut self, mut other: Findings) {
        let room = MOST.saturating_sub(self.found.len());
        self.left_out += other.left_out + other.found.len().saturating_sub(room);
        other.found.truncate(room);
        self.found.append(&mut other.found);
    }

    /// The first fault: why the flag cannot be evaluated.
    pub(crate) fn first_fault(&self) -> Option<&Finding> {
        self.found.iter().find(|finding| finding.disables_flag)
    }

    pub(crate) fn into_vec(mut self) -> Vec<Finding> {
        if self.left_out > 0 {
            self.found.push(Finding {
                severity: Severity::Error,
                path: String::new(),
                message: format!("{} more findings are not listed", self.left_out),
                disables_flag: false,
            });
        }
        self.found
    }
}
