//! Rows as lines in many small files, spread by their keys, so that databases of any size can be compared in
//! little memory, in whatever order they hand out their rows.

use std::collections::HashMap;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::super::{Doing, Failure, Result};

/// How many files there are.
pub const PARTS: usize = 256;

/// What a row is addressed by: the number of its table, and its key as a line.
pub type RowName = (u16, String);

/// Files that are being written.
pub struct Spread {
    dir: PathBuf,
    files: Vec<BufWriter<File>>,
}

/// The part that a row stands in, the same in every run.
pub fn part_of(name: &RowName) -> usize {
    // Without a seed of its own it hashes the same way every time.
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    usize::try_from(hasher.finish() % PARTS as u64).unwrap_or_default()
}

impl Spread {
    /// Begins files in a directory; what is there is overwritten.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn create(dir: &Path) -> Result<Self> {
        let failed = || format!("{} cannot be written", dir.display());
        std::fs::create_dir_all(dir).doing(failed)?;
        let files = (0..PARTS).map(|part| File::create(dir.join(part.to_string())).map(BufWriter::new));
        let files = files.collect::<std::io::Result<_>>().doing(failed)?;
        Ok(Self { dir: dir.to_owned(), files })
    }

    /// Adds a row.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add(&mut self, name: &RowName, row: &str) -> Result<()> {
        let file = &mut self.files[part_of(name)];
        // JSON has neither tabs nor ends of lines.
        let written = writeln!(file, "{}\t{}\t{row}", name.0, name.1);
        written.doing(|| format!("{} cannot be written", self.dir.display()))
    }

    /// Makes the files durable.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn finish(self) -> Result<()> {
        for file in self.files {
            let file = file.into_inner().map_err(std::io::IntoInnerError::into_error);
            let synced = file.and_then(|file| file.sync_all());
            synced.doing(|| format!("{} cannot be written", self.dir.display()))?;
        }
        Ok(())
    }
}

/// The rows of one part.
///
/// # Errors
/// The file cannot be read, is damaged, or a key is there twice.
pub fn rows(dir: &Path, part: usize) -> Result<HashMap<RowName, String>> {
    let file = dir.join(part.to_string());
    let failed = || format!("{} cannot be read", file.display());
    let mut rows = HashMap::new();
    for line in BufReader::new(File::open(&file).doing(failed)?).lines() {
        let line = line.doing(failed)?;
        let mut parts = line.splitn(3, '\t');
        let parsed = parts.next().and_then(|table| table.parse().ok()).zip(parts.next()).zip(parts.next());
        let Some(((table, key), row)) = parsed else {
            return Err(Failure::new(format!("{} is damaged: {line}", file.display())));
        };
        if rows.insert((table, key.to_owned()), row.to_owned()).is_some() {
            return Err(Failure::new(format!("the key {key} of table number {table} is there twice")));
        }
    }
    Ok(rows)
}
