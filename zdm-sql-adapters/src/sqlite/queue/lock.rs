use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zdm_core::error::{Error, Kind, Result};

const ATTEMPTS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);

/// The file beside the database that only one process holds. It is let go of with the process.
#[derive(Debug)]
pub(in crate::sqlite) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Removes the file as well.
    pub(in crate::sqlite) fn remove(self) -> Result<()> {
        std::fs::remove_file(&self.path).map_err(|error| unavailable(error, &self.path))
    }
}

fn unavailable(error: io::Error, path: &Path) -> Error {
    let message = format!("the lock file {} cannot be taken or removed", path.display());
    Error::new(Kind::Unavailable, message).with_source(error).not_applied()
}

/// Takes the lock of the queue in a database.
pub(in crate::sqlite) async fn lock(database: PathBuf) -> Result<Lock> {
    let ended = |error| Error::new(Kind::Stopped, "the runtime shuts down").with_source(error).not_applied();
    tokio::task::spawn_blocking(move || lock_blocking(&database)).await.map_err(ended)?
}

fn lock_blocking(database: &Path) -> Result<Lock> {
    let mut path = database.as_os_str().to_owned();
    path.push(".zdm-queue-lock");
    let path = PathBuf::from(path);
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|error| unavailable(error, &path))?;
    // A queue that was dropped without being closed lets go when its last order is carried out.
    for attempt in 1..=ATTEMPTS {
        match file.try_lock() {
            Ok(()) => return Ok(Lock { path, _file: file }),
            Err(TryLockError::WouldBlock) if attempt < ATTEMPTS => std::thread::sleep(PAUSE),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(unavailable(error, &path)),
        }
    }
    let message = format!(
        "the queue in {} is open already, here or in another process: one process works on a queue; stop the other \
         one first",
        database.display()
    );
    Err(Error::new(Kind::Owned, message))
}
