//! Small files that are replaced whole or not at all, and that tell when they are damaged.
//!
//! Layout: eight bytes of magic, the length of the content (4 bytes, little endian), its CRC-32 (4 bytes),
//! the content.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::error::{Error, Kind, Result};

const HEAD: usize = 16;

/// The content of a file; `None` when there is none.
///
/// # Errors
/// [`Kind::Damaged`] when it is not whole, naming the file and what to do.
pub(crate) fn read(path: &Path, magic: [u8; 8], advice: &str) -> Result<Option<Vec<u8>>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("cannot read", path, error)),
    };
    let damaged =
        |what: &str| Error::new(Kind::Damaged, format!("{} is damaged: {what}; {advice}", path.display()));
    let Some((head, content)) = bytes.split_at_checked(HEAD) else {
        return Err(damaged(&format!("it ends after {} bytes", bytes.len())));
    };
    if head[..8] != magic {
        return Err(damaged("it does not begin as such a file does"));
    }
    let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    if content.len() != number(8) as usize {
        return Err(damaged(&format!(
            "it has {} bytes of content, {} were written",
            content.len(),
            number(8)
        )));
    }
    if crc32fast::hash(content) != number(12) {
        return Err(damaged("its checksum does not fit its content"));
    }
    Ok(Some(content.to_vec()))
}

/// Replaces a file: the new content is durable beside it before it takes its place, and the place is
/// durable when this returns.
///
/// # Errors
/// [`Kind::Unavailable`] naming the file; the earlier content stands.
pub(crate) fn replace(path: &Path, magic: [u8; 8], content: &[u8]) -> Result<()> {
    let length = u32::try_from(content.len()).map_err(|error| failed("cannot write", path, error))?;
    let fresh = path.with_extension("new");
    let write = || -> io::Result<()> {
        let mut file = File::create(&fresh)?;
        file.write_all(&magic)?;
        file.write_all(&length.to_le_bytes())?;
        file.write_all(&crc32fast::hash(content).to_le_bytes())?;
        file.write_all(content)?;
        file.sync_all()
    };
    if let Err(error) = write() {
        // A full disk should not stay full because of this.
        drop(fs::remove_file(&fresh));
        return Err(failed("cannot write", &fresh, error).not_applied());
    }
    fs::rename(&fresh, path).map_err(|error| failed("cannot replace", path, error).not_applied())?;
    sync_parent(path)
}

/// Makes the names in a file's folder durable.
///
/// # Errors
/// [`Kind::Unavailable`] naming the folder.
pub(crate) fn sync_parent(path: &Path) -> Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| failed("cannot sync the folder", parent, error))
}

/// Runs file work where it may block.
///
/// # Errors
/// What the work says; [`Kind::Stopped`] when the runtime ends.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => {
            Err(Error::new(Kind::Stopped, "the runtime ended during file work").with_source(error).unknown())
        }
    }
}

pub(crate) fn failed(
    what: &str,
    path: &Path,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::new(Kind::Unavailable, format!("{what} {}", path.display())).with_source(error)
}
