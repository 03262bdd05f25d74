//! The command line.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::dataset::FLIGHTS_IN_2013;
use super::tables::address::Address;
use super::{Doing, Failure, Result};

/// What `--help` prints.
pub const HELP: &str = "\
Migrates a live database while readers and writers keep hitting it, and proves that no acknowledged write
was lost. Without --old and --new: flights in an SQLite file, to another schema in another file.

Usage: live-migration [OPTIONS]
       live-migration --old URL --new URL [--table NAME ...] [--create] [OPTIONS]

  --old URL, --new URL      move the tables of one database to another: sqlite:PATH, postgres://USER@HOST/DATABASE
                            or mysql://USER@HOST/DATABASE (MySQL and MariaDB)
  --table NAME              move this table; may be given several times. Default: every table of the old
                            database, in an order that foreign keys allow
  --create                  create the tables on the new side first: columns and keys, and when the rows are
                            there indexes and foreign keys. Defaults, generated columns and checks come along
                            where the new database has words for them; what is left out is printed
                            At the end of a migration that is complete and clean the program removes the zdm_ tables
                            that it has installed in both databases, unless they were there before or hold what
                            belongs to another migration. With --rollback they stay
  --dir DIRECTORY           keep the databases, the queue and the checkpoints there. A run that was killed is
                            resumed by running the program again. Default: a directory that is removed at the end
  --rows NUMBER             how many flights to load, 1 to 336776. Default: all of them. Not with --old
  --writes-per-second NUMBER  updates, inserts and deletes together, 0 to 100000. Default: 500
  --readers NUMBER          readers side by side, 0 to 1000, each 100 reads per second. Default: 4
  --outage SECONDS          the new database fails for so long in the middle of the migration, 0 to 600
  --rollback                go to Live and back to Shadow, so that the old database ends up in charge again
  --json                    print the result as one JSON object on the last line
  --help                    print this

Exit status: 0 if nothing was lost, extra, different, parked or failed; 1 if something was, or the program could
not finish; 2 if the command line is wrong.";

/// Two databases whose tables move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// The old database.
    pub old: Address,
    /// The new database.
    pub new: Address,
    /// The tables; none for all of them.
    pub tables: Vec<String>,
    /// Whether they are created on the new side.
    pub create: bool,
}

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Two databases whose tables move; none for the flights.
    pub tables: Option<Move>,
    /// Where the files are kept; none for a temporary directory.
    pub dir: Option<PathBuf>,
    /// How many flights to load; none for all of them, or as many as the directory holds already.
    pub rows: Option<u64>,
    /// Writes of all writers together.
    pub writes_per_second: u32,
    /// Readers side by side.
    pub readers: u32,
    /// How long the new database fails, if at all.
    pub outage: Option<Duration>,
    /// Whether to go back to the old database in the end.
    pub rollback: bool,
    /// Whether the last line is JSON.
    pub json: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tables: None,
            dir: None,
            rows: None,
            writes_per_second: 500,
            readers: 4,
            outage: None,
            rollback: false,
            json: false,
        }
    }
}

impl Options {
    /// Reads the arguments that follow the program's name. `None` when help was asked for.
    ///
    /// # Errors
    /// An argument is unknown, has no value, or a value out of range; the text names it and the range.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Option<Self>> {
        let mut options = Self::default();
        let (mut old, mut new, mut tables, mut create) = (None, None, Vec::new(), false);
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let (name, mut inline) = match argument.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (argument, None),
            };
            let mut value = || {
                let value = inline.take().or_else(|| arguments.next());
                value.ok_or_else(|| Failure::new(format!("{name} needs a value; see --help")))
            };
            match name.as_str() {
                "--old" => old = Some(Address::parse(&name, &value()?)?),
                "--new" => new = Some(Address::parse(&name, &value()?)?),
                "--table" => tables.push(value()?),
                "--create" => create = true,
                "--dir" => options.dir = Some(PathBuf::from(value()?)),
                "--rows" => options.rows = Some(number(&name, &value()?, 1, FLIGHTS_IN_2013)?),
                "--writes-per-second" => options.writes_per_second = number(&name, &value()?, 0, 100_000)?,
                "--readers" => options.readers = number(&name, &value()?, 0, 1_000)?,
                "--outage" => {
                    let seconds = number(&name, &value()?, 0, 600)?;
                    options.outage = (seconds > 0).then(|| Duration::from_secs(seconds));
                }
                "--rollback" => options.rollback = true,
                "--json" => options.json = true,
                "--help" | "-h" => return Ok(None),
                _ => return Err(Failure::new(format!("unknown option {name}; see --help"))),
            }
            if inline.is_some() {
                return Err(Failure::new(format!("{name} takes no value; see --help")));
            }
        }
        options.tables = match (old, new) {
            (Some(old), Some(new)) => Some(Move { old, new, tables, create }),
            (None, None) if tables.is_empty() && !create => None,
            _ => return Err(Failure::new("--old and --new go together, and --table and --create with them")),
        };
        if options.tables.is_some() && options.rows.is_some() {
            return Err(Failure::new("--rows is for the flights, and does not go with --old and --new"));
        }
        Ok(Some(options))
    }
}

fn number<T>(name: &str, text: &str, least: T, most: T) -> Result<T>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    let number = text.parse().ok().filter(|number| *number >= least && *number <= most);
    number.ok_or_else(|| Failure::new(format!("{name} takes a number from {least} to {most}, not '{text}'")))
}

/// A directory of its own that disappears with the value.
#[derive(Debug)]
pub struct TemporaryDirectory(PathBuf);

impl TemporaryDirectory {
    /// Creates it.
    ///
    /// # Errors
    /// The system's directory of temporary files cannot be written.
    pub fn create() -> Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("zdm-live-migration-{}-{count}", std::process::id());
            let path = std::env::temp_dir().join(name);
            match std::fs::create_dir(&path) {
                Ok(()) => return Ok(Self(path)),
                // A process of the same number was killed before it could clean up.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(error).doing(|| format!("no directory can be made at {}", path.display()));
                }
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        // What is left behind is a temporary file; there is nobody to tell.
        let _removed = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Options>> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn nothing_means_the_defaults() {
        let options = parse("").unwrap().unwrap();
        assert_eq!(options, Options::default());
        assert_eq!((options.writes_per_second, options.rows), (500, None));
    }

    #[test]
    fn all_options_are_read() {
        let line = "--dir kept --rows=1000 --writes-per-second 20 --readers 3 --outage 5 --rollback --json";
        let expected = Options {
            tables: None,
            dir: Some("kept".into()),
            rows: Some(1_000),
            writes_per_second: 20,
            readers: 3,
            outage: Some(Duration::from_secs(5)),
            rollback: true,
            json: true,
        };
        assert_eq!(parse(line).unwrap(), Some(expected));
        assert_eq!(parse("--rows 5 --help").unwrap(), None);
        let tables = parse("--old sqlite:a --new=sqlite:b --table x --table y --create").unwrap().unwrap();
        let Some(Move { old, new, tables, create: true }) = tables.tables else { panic!("{tables:?}") };
        assert_eq!((old.text.as_str(), new.text.as_str(), tables.len()), ("a", "b", 2));
    }

    #[test]
    fn a_wrong_command_line_is_told_what_is_wrong() {
        for (line, expected) in [
            ("--row 5", "unknown option --row;"),
            ("--rows", "--rows needs a value"),
            ("--rows 0", "--rows takes a number from 1 to 336776, not '0'"),
            ("--rows 336777", "from 1 to 336776"),
            ("--readers many", "--readers takes a number from 0 to 1000, not 'many'"),
            ("--outage -1", "--outage takes a number from 0 to 600"),
            ("--rollback=yes", "--rollback takes no value"),
            ("kept", "unknown option kept"),
            ("--old sqlite:a", "--old and --new go together"),
            ("--create", "--old and --new go together"),
            ("--old a --new sqlite:b", "--old takes sqlite:PATH"),
            ("--old sqlite:a --new sqlite:b --rows 5", "--rows is for the flights"),
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_temporary_directory_disappears() {
        let dir = TemporaryDirectory::create().unwrap();
        let path = dir.path().to_owned();
        std::fs::write(path.join("file"), "text").unwrap();
        drop(dir);
        assert!(!path.exists());
    }
}
