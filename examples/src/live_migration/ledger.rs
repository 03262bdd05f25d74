//! The load generator's own record: every write before it is called, and every acknowledgement before it counts.
//!
//! A text file, one event per line, each written with one call that hands it to the operating system, so it
//! survives `kill -9`. The number of a line is its position; the line of a write is its name.
//!
//! ```text
//! zdm-ledger 1 336776         the data set's first flights that the old database was loaded with
//! I 17 U 2013,1,1,..          flight 17 is to become this
//! I 18 D                      flight 18 is to be removed
//! A 1                         the write of line 1 was acknowledged
//! F 2                         the write of line 2 failed; nobody knows whether it took effect
//! R                           the program was started again
//! ```

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::history::{Event, History, Position};
use super::{Doing, Failure, Result};

const MAGIC: &str = "zdm-ledger 1 ";

/// The record of all writes, open for more.
#[derive(Debug)]
pub struct Ledger {
    file: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    out: File,
    next: Position,
    history: History,
}

/// What a ledger file says.
#[derive(Debug)]
pub struct Recorded {
    /// How many flights the old database was loaded with.
    pub rows: u64,
    /// All writes.
    pub history: History,
    next: Position,
    whole_bytes: u64,
}

impl Ledger {
    /// Starts a ledger for a database that was just loaded. The file appears whole or not at all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(file: &Path, rows: u64) -> Result<Self> {
        let failed = || format!("the ledger {} cannot be created", file.display());
        let unfinished = file.with_extension("unfinished");
        std::fs::write(&unfinished, format!("{MAGIC}{rows}\n")).doing(failed)?;
        std::fs::rename(&unfinished, file).doing(failed)?;
        let out = OpenOptions::new().append(true).open(file).doing(failed)?;
        Ok(Self::over(file, out, 1, History::default()))
    }

    /// Goes on with the ledger of a program that ended or was killed. Returns how many flights there were at first.
    ///
    /// # Errors
    /// There is no ledger, it is damaged, or it cannot be written.
    pub fn resume(file: &Path) -> Result<(Self, u64)> {
        let failed = || format!("the ledger {} cannot be opened", file.display());
        let Recorded { rows, history, next, whole_bytes } = Recorded::read(file)?;
        let mut out = OpenOptions::new().write(true).open(file).doing(failed)?;
        // A line that the killed program did not finish was never relied on.
        out.set_len(whole_bytes).doing(failed)?;
        out.seek(SeekFrom::End(0)).doing(failed)?;
        let ledger = Self::over(file, out, next, history);
        ledger.append(|_| Event::Restarted)?;
        Ok((ledger, rows))
    }

    fn over(file: &Path, out: File, next: Position, history: History) -> Self {
        Self { file: file.to_owned(), inner: Mutex::new(Inner { out, next, history }) }
    }

    /// Records that a write is about to be called, and gives it its name. The value may depend on the name.
    ///
    /// # Errors
    /// The file cannot be written; the write must not be called.
    pub fn intend(&self, key: i64, value: impl FnOnce(Position) -> Option<String>) -> Result<Position> {
        self.append(|position| Event::Intent { key, value: value(position) })
    }

    /// Records that a write was acknowledged.
    ///
    /// # Errors
    /// The file cannot be written; the write must not be counted as acknowledged.
    pub fn acknowledged(&self, write: Position) -> Result<Position> {
        self.append(|_| Event::Acknowledged(write))
    }

    /// Records that a request failed.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn failed(&self, write: Position) -> Result<Position> {
        self.append(|_| Event::Failed(write))
    }

    /// The position that the next event will have: the beginning or the end of a read.
    pub fn position(&self) -> Position {
        self.lock().next
    }

    /// Looks at the history so far.
    pub fn look<T>(&self, look: impl FnOnce(&History) -> T) -> T {
        look(&self.lock().history)
    }

    fn append(&self, event: impl FnOnce(Position) -> Event) -> Result<Position> {
        let mut inner = self.lock();
        let position = inner.next;
        let event = event(position);
        let line = line_of(&event);
        inner
            .out
            .write_all(line.as_bytes())
            .doing(|| format!("the ledger {} cannot be written", self.file.display()))?;
        inner.next += 1;
        if inner.history.add(position, event) {
            Ok(position)
        } else {
            Err(Failure::new(format!("the ledger was told of a write that is not under way: {line}")))
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recorded {
    /// Reads a ledger file. A last line without an end is left out.
    ///
    /// # Errors
    /// There is no such file, or a line in it is not what a ledger holds.
    pub fn read(file: &Path) -> Result<Self> {
        let failed = || format!("the ledger {} cannot be read", file.display());
        let mut lines = BufReader::new(File::open(file).doing(failed)?);
        let mut line = String::new();
        let mut recorded = Self { rows: 0, history: History::default(), next: 0, whole_bytes: 0 };
        loop {
            line.clear();
            match lines.read_line(&mut line) {
                Ok(_) => {}
                // A torn last line may end within a character.
                Err(error) if error.kind() == ErrorKind::InvalidData => break,
                Err(error) => return Err(error).doing(failed),
            }
            let Some(whole) = line.strip_suffix('\n') else { break };
            let damaged = || {
                let number = recorded.next + 1;
                Failure::new(format!("the ledger {} is damaged in line {number}: {whole}", file.display()))
            };
            if recorded.next == 0 {
                let rows = whole.strip_prefix(MAGIC).and_then(|rows| rows.parse().ok());
                recorded.rows = rows.ok_or_else(damaged)?;
            } else {
                let event = event_of(whole).ok_or_else(damaged)?;
                if !recorded.history.add(recorded.next, event) {
                    return Err(damaged());
                }
            }
            recorded.next += 1;
            recorded.whole_bytes += line.len() as u64;
        }
        if recorded.next == 0 {
            return Err(Failure::new(format!("{} is not a ledger of this program", file.display())));
        }
        Ok(recorded)
    }
}

fn line_of(event: &Event) -> String {
    match event {
        Event::Intent { key, value: Some(value) } => format!("I {key} U {value}\n"),
        Event::Intent { key, value: None } => format!("I {key} D\n"),
        Event::Acknowledged(write) => format!("A {write}\n"),
        Event::Failed(write) => format!("F {write}\n"),
        Event::Restarted => "R\n".to_owned(),
    }
}

fn event_of(line: &str) -> Option<Event> {
    if line == "R" {
        return Some(Event::Restarted);
    }
    let (kind, rest) = line.split_once(' ')?;
    match kind {
        "A" => Some(Event::Acknowledged(rest.parse().ok()?)),
        "F" => Some(Event::Failed(rest.parse().ok()?)),
        "I" => {
            let (key, change) = rest.split_once(' ')?;
            let value = match change.split_once(' ') {
                None if change == "D" => None,
                Some(("U", value)) => Some(value.to_owned()),
                _ => return None,
            };
            Some(Event::Intent { key: key.parse().ok()?, value })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::TemporaryDirectory;
    use super::*;

    fn values(history: &History, key: i64) -> Vec<String> {
        history.allowed(key, Position::MAX, Position::MAX).values.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_was_recorded_is_there_after_the_program_died() {
        let dir = TemporaryDirectory::create().unwrap();
        let file = dir.path().join("ledger");
        let ledger = Ledger::create(&file, 10).unwrap();
        let first = ledger.intend(3, |name| Some(format!("value {name}"))).unwrap();
        ledger.acknowledged(first).unwrap();
        ledger.intend(3, |name| Some(format!("value {name}"))).unwrap();
        // Nothing is closed or flushed, and the last line is torn.
        std::mem::forget(ledger);
        let mut raw = OpenOptions::new().append(true).open(&file).unwrap();
        raw.write_all(b"I 4 U half a li").unwrap();

        let (ledger, rows) = Ledger::resume(&file).unwrap();
        assert_eq!(rows, 10);
        ledger.look(|history| {
            assert_eq!(values(history, 3), ["value 1", "value 3"]);
            assert_eq!(history.keys().collect::<Vec<_>>(), [3]);
        });
        let second = ledger.intend(3, |_| Some("after".into())).unwrap();
        ledger.acknowledged(second).unwrap();
        let recorded = Recorded::read(&file).unwrap();
        assert_eq!(values(&recorded.history, 3), ["after"]);
        assert_eq!(recorded.history.acknowledged(), 2);
    }

    #[test]
    fn damage_in_the_middle_is_named() {
        let dir = TemporaryDirectory::create().unwrap();
        let file = dir.path().join("ledger");
        for (text, expected) in [
            ("zdm-ledger 1 10\nI 3 X\nR\n", "line 2: I 3 X"),
            ("zdm-ledger 1 10\nA 1\n", "line 2: A 1"),
            ("something else\n", "line 1: something else"),
            ("", "is not a ledger"),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = Ledger::resume(&file).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn writes_from_many_threads_keep_their_own_lines() {
        let dir = TemporaryDirectory::create().unwrap();
        let ledger = Ledger::create(&dir.path().join("ledger"), 0).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let ledger = &ledger;
                scope.spawn(move || {
                    for _ in 0..200 {
                        let write = ledger.intend(thread, |name| Some(name.to_string())).unwrap();
                        ledger.acknowledged(write).unwrap();
                    }
                });
            }
        });
        let recorded = Recorded::read(&dir.path().join("ledger")).unwrap();
        assert_eq!(recorded.history.acknowledged(), 1_600);
        for thread in 0..8 {
            assert_eq!(values(&recorded.history, thread).len(), 1);
        }
    }
}
