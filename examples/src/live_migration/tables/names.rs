//! Numbers for keys of any kind. The ledger speaks of numbers; a file beside it says which key each one is.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::super::{Doing, Failure, Result};
use super::spread::RowName;

/// The keys that were ever written, with their numbers.
pub struct Names {
    file: PathBuf,
    inner: Mutex<Inner>,
}

struct Inner {
    out: File,
    numbers: HashMap<RowName, i64>,
}

impl Names {
    /// Opens the file, or begins it. A last line that was not finished was never relied on.
    ///
    /// # Errors
    /// The file cannot be read or written, or is damaged.
    pub fn open(file: &Path) -> Result<Self> {
        let failed = || format!("{} cannot be opened", file.display());
        let mut options = OpenOptions::new();
        let mut out = options.read(true).write(true).create(true).truncate(false).open(file).doing(failed)?;
        let text = String::from_utf8_lossy(&std::fs::read(file).doing(failed)?).into_owned();
        let mut numbers = HashMap::new();
        let mut whole = 0_u64;
        for line in text.split_inclusive('\n') {
            let Some(name) = line.strip_suffix('\n') else { break };
            let parsed =
                name.split_once('\t').and_then(|(table, key)| Some((table.parse().ok()?, key.to_owned())));
            let name =
                parsed.ok_or_else(|| Failure::new(format!("{} is damaged: {line}", file.display())))?;
            let number = i64::try_from(numbers.len()).unwrap_or(i64::MAX);
            numbers.insert(name, number);
            whole += line.len() as u64;
        }
        out.set_len(whole).doing(failed)?;
        out.seek(SeekFrom::End(0)).doing(failed)?;
        Ok(Self { file: file.to_owned(), inner: Mutex::new(Inner { out, numbers }) })
    }

    /// The number of a key, which it gets if it has none.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn number(&self, name: &RowName) -> Result<i64> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = inner.numbers.get(name) {
            return Ok(*number);
        }
        let line = format!("{}\t{}\n", name.0, name.1);
        inner
            .out
            .write_all(line.as_bytes())
            .doing(|| format!("{} cannot be written", self.file.display()))?;
        let number = i64::try_from(inner.numbers.len()).unwrap_or(i64::MAX);
        inner.numbers.insert(name.clone(), number);
        Ok(number)
    }

    /// The number of a key that was written before.
    pub fn known(&self, name: &RowName) -> Option<i64> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).numbers.get(name).copied()
    }

    /// All keys with their numbers.
    pub fn all(&self) -> Vec<(RowName, i64)> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.numbers.iter().map(|(name, number)| (name.clone(), *number)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::options::TemporaryDirectory;
    use super::*;

    #[test]
    fn numbers_survive_a_torn_line() {
        let dir = TemporaryDirectory::create().unwrap();
        let file = dir.path().join("keys");
        let names = Names::open(&file).unwrap();
        let name = |table, key: &str| (table, key.to_owned());
        assert_eq!(names.number(&name(0, "[\"1\"]")).unwrap(), 0);
        assert_eq!(names.number(&name(1, "[\"1\"]")).unwrap(), 1);
        assert_eq!(names.number(&name(0, "[\"1\"]")).unwrap(), 0);
        drop(names);
        OpenOptions::new().append(true).open(&file).unwrap().write_all(b"0\t[\"to").unwrap();
        let names = Names::open(&file).unwrap();
        assert_eq!(names.known(&name(1, "[\"1\"]")), Some(1));
        assert_eq!(names.known(&name(0, "[\"to")), None);
        assert_eq!(names.number(&name(0, "[\"2\"]")).unwrap(), 2);
        assert_eq!(names.all().len(), 3);
    }
}
