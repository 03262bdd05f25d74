use crate::definition::Finding;

/// What the code declares, held against what the files have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Declared in code, but in no file: the code default counts.
    pub missing: Vec<String>,
    /// In a file, but the code does not declare them. They may be old.
    pub undeclared: Vec<String>,
    /// Declared, but the file has another type, with what is wrong.
    pub mismatched: Vec<(String, String)>,
}

/// How loading is going.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// The revision of the snapshot that is running.
    pub revision: u64,
    /// One for every source, in order, and one for what was pushed.
    pub sources: Vec<SourceHealth>,
    /// What is wrong or risky in the files that are running.
    pub findings: Vec<Finding>,
    /// Why the last good copy could not be written, if so.
    pub last_good_error: Option<String>,
    /// Whether the process runs on the last good copy because a source did not answer at start.
    pub on_last_good: bool,
}

/// How one source is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SourceHealth {
    /// Its name.
    pub name: String,
    /// When it last gave something that was taken, in seconds since 1970.
    pub last_good: Option<i64>,
    /// Why what it gave last was refused, or why it did not answer. None when all is well.
    pub refused: Option<String>,
    /// How often in a row it failed.
    pub failures: u32,
}
