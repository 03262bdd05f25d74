//! Small files that are replaced whole, carry a checksum, and are never half of anything.
//!
//! The first line says what the file is; the rest is its body, readable with any editor:
//!
//! ```text
//! zdm checkpoint 1 crc32 9f3c21aa bytes 118
//! {"format":1,"sequence":42,...}
//! ```
//!
//! A replacement is written beside the file, synced, and renamed over it; then the directory is synced.
//! So a crash leaves the old file or the new one, and perhaps a leftover that nobody reads.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};

/// What kind of file it is, and which formats of it this release knows.
#[derive(Debug)]
pub(crate) struct Seal {
    /// One word: the kind of file.
    pub(crate) kind: &'static str,
    /// The format that is written, and the newest that can be read.
    pub(crate) format: u32,
    /// What a person can do about a file that is damaged.
    pub(crate) remedy: &'static str,
}

impl Seal {
    /// The body of the file, or `None` when there is no file.
    pub(crate) fn read(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("read", path, error)),
        };
        let header = Header::parse(&bytes)
            .ok_or_else(|| self.damaged(path, "its first line is not that of such a file"))?;
        if header.kind != self.kind {
            return Err(self.damaged(path, &format!("it is a file of the kind {:?}", header.kind)));
        }
        let body = &bytes[header.len..];
        if body.len() as u64 != header.body_len {
            let found = format!("it has {} bytes where {} were written", body.len(), header.body_len);
            return Err(self.damaged(path, &found));
        }
        if checksum(header.kind, header.format, body) != header.crc {
            return Err(self.damaged(path, "its checksum does not match"));
        }
        if header.format > self.format {
            let message = format!(
                "the {} file {} has the format {}, and this release knows formats up to {}: run the release \
                 that wrote it, or a newer one",
                self.kind,
                path.display(),
                header.format,
                self.format
            );
            return Err(Error::new(Kind::Invalid, message));
        }
        Ok(Some(body.to_vec()))
    }

    /// Replaces the file. When it returns the new body is durable. When it fails the old file stands,
    /// unless the error's certainty is unknown: then it may be either.
    ///
    /// Two callers must not replace the same file at the same time.
    pub(crate) fn replace(&self, path: &Path, body: &[u8]) -> Result<()> {
        let crc = checksum(self.kind, self.format, body);
        let mut bytes =
            format!("zdm {} {} crc32 {crc:08x} bytes {}\n", self.kind, self.format, body.len()).into_bytes();
        bytes.extend_from_slice(body);
        let temporary = sibling(path, ".tmp");
        let written = write_and_sync(&temporary, &bytes).and_then(|()| fs::rename(&temporary, path));
        if let Err(error) = written {
            // Best effort: a leftover is ignored by every reader and overwritten by the next writer.
            drop(fs::remove_file(&temporary));
            return Err(io_error("replace", path, error).not_applied());
        }
        sync_directory_of(path).map_err(|error| io_error("sync the directory of", path, error).unknown())
    }

    /// An error about the bytes of a file.
    pub(crate) fn damaged(&self, path: &Path, what: &str) -> Error {
        let (kind, path, remedy) = (self.kind, path.display(), self.remedy);
        Error::new(Kind::Damaged, format!("the {kind} file {path} is damaged: {what}; {remedy}"))
    }
}

/// Removes a file; one that is not there is no error. Durable when it returns.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Ok(()) => {
            sync_directory_of(path).map_err(|error| io_error("sync the directory of", path, error).unknown())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_error("remove", path, error).not_applied()),
    }
}

/// An error of the operating system about a path.
pub(crate) fn io_error(doing: &str, path: &Path, error: std::io::Error) -> Error {
    Error::new(Kind::Unavailable, format!("cannot {doing} {}", path.display())).with_source(error)
}

/// The path with something put after its file name.
pub(crate) fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().map_or_else(OsString::new, OsString::from);
    name.push(suffix);
    path.with_file_name(name)
}

/// Runs file work where it may block. It runs to its end even if the future is dropped.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        let message = "the runtime was shut down, or file work panicked";
        Err(Error::new(Kind::Stopped, message).with_source(error).unknown())
    })
}

fn write_and_sync(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(unix)]
fn sync_directory_of(path: &Path) -> std::io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

/// Elsewhere a directory cannot be opened as a file, and renaming is durable by itself.
#[cfg(not(unix))]
fn sync_directory_of(_: &Path) -> std::io::Result<()> {
    Ok(())
}

/// The checksum covers the first line's facts too, so a flipped digit there is damage as well.
fn checksum(kind: &str, format: u32, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(format!("{kind} {format} {}\n", body.len()).as_bytes());
    hasher.update(body);
    hasher.finalize()
}

struct Header<'a> {
    kind: &'a str,
    format: u32,
    crc: u32,
    body_len: u64,
    len: usize,
}

impl<'a> Header<'a> {
    /// A first line is never longer.
    const LONGEST: usize = 128;

    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let end = bytes.iter().take(Self::LONGEST).position(|byte| *byte == b'\n')?;
        let line = std::str::from_utf8(&bytes[..end]).ok()?;
        let words: Vec<&str> = line.split(' ').collect();
        let ["zdm", kind, format, "crc32", crc, "bytes", body_len] = words[..] else { return None };
        Some(Self {
            kind,
            format: format.parse().ok()?,
            crc: u32::from_str_radix(crc, 16).ok()?,
            body_len: body_len.parse().ok()?,
            len: end + 1,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A directory of its own for one test, removed at the end.
    pub(crate) struct TestDir(PathBuf);

    impl TestDir {
        pub(crate) fn new() -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let name = format!("zdm-core-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        pub(crate) fn path(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for TestDir {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    const SEAL: Seal = Seal { kind: "sample", format: 2, remedy: "throw it away" };

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let dir = TestDir::new();
        let path = dir.path("a");
        SEAL.replace(&path, b"the body").unwrap();
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                fs::write(&path, &bytes).unwrap();
                // Upper and lower case of a hexadecimal digit are the same number.
                let same_digit = bytes[at].eq_ignore_ascii_case(&whole[at]);
                match SEAL.read(&path) {
                    Err(error) => {
                        assert_eq!(error.kind(), Kind::Damaged);
                        assert!(error.to_string().contains("throw it away"), "{error}");
                    }
                    Ok(body) => assert!(same_digit && body.unwrap() == b"the body", "byte {at} bit {bit}"),
                }
            }
            fs::write(&path, &whole[..at]).unwrap();
            assert_eq!(SEAL.read(&path).unwrap_err().kind(), Kind::Damaged, "cut at {at}");
        }
        fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
        assert_eq!(SEAL.read(&path).unwrap_err().kind(), Kind::Damaged, "one byte too many");
    }

    #[test]
    fn a_newer_format_and_another_kind_are_told_apart_from_damage() {
        let dir = TestDir::new();
        let path = dir.path("a");
        Seal { format: 3, ..SEAL }.replace(&path, b"x").unwrap();
        let error = SEAL.read(&path).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().contains("format 3") && error.to_string().contains("up to 2"), "{error}");
        Seal { kind: "other", ..SEAL }.replace(&path, b"x").unwrap();
        assert!(SEAL.read(&path).unwrap_err().to_string().contains("\"other\""));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error_and_the_old_file_stays() {
        let dir = TestDir::new();
        let path = dir.path("a");
        SEAL.replace(&path, b"old").unwrap();
        // Writing through the link answers "no space left on device", as a full disk does.
        std::os::unix::fs::symlink("/dev/full", sibling(&path, ".tmp")).unwrap();
        let error = SEAL.replace(&path, b"new").unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable);
        assert_eq!(error.certainty(), crate::error::Certainty::NotApplied);
        assert!(format!("{error:?}").contains("No space left"), "{error:?}");
        assert_eq!(SEAL.read(&path).unwrap().unwrap(), b"old");
        SEAL.replace(&path, b"new").unwrap();
        assert_eq!(SEAL.read(&path).unwrap().unwrap(), b"new");
    }
}
