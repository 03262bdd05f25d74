use std::fs::{self, File};
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use super::{Checkpoint, CheckpointStore};
use crate::error::{Error, Kind, Result};
use crate::sealed_file::{self, Seal, blocking, io_error};

const SEAL: Seal = Seal {
    kind: "checkpoint",
    format: 1,
    remedy: "put back a copy, or remove the file and let the job start from its beginning",
};

const SUFFIX: &str = ".checkpoint";
const LOCK: &str = "checkpoints.lock";

/// Checkpoints in a directory, one file per job.
///
/// Several processes may use one directory: a lock file serialises their saves.
///
/// ```
/// use zdm_core::checkpoint::{Checkpoint, CheckpointStore, FileCheckpoints};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// # let dir = std::env::temp_dir().join(format!("zdm-doc-checkpoints-{}", std::process::id()));
/// let checkpoints = FileCheckpoints::open(&dir).await?;
/// checkpoints.save("backfill", &Checkpoint::first(1, "users", vec![7], 0)).await?;
/// drop(checkpoints);
///
/// let reopened = FileCheckpoints::open(&dir).await?;
/// assert_eq!(reopened.load("backfill").await?.unwrap().position, [7]);
/// # std::fs::remove_dir_all(&dir).unwrap();
/// # Ok::<_, zdm_core::error::Error>(()) }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct FileCheckpoints {
    directory: PathBuf,
}

impl FileCheckpoints {
    /// Opens a directory, which is made if it is not there.
    ///
    /// # Errors
    /// `Kind::Unavailable` when the directory cannot be made or read.
    ///
    /// # Cancel safety
    /// Nothing but the directory may be left when the future is dropped.
    pub async fn open(directory: impl Into<PathBuf>) -> Result<Self> {
        let directory = directory.into();
        blocking(move || {
            fs::create_dir_all(&directory).map_err(|error| io_error("make", &directory, error))?;
            fs::read_dir(&directory).map_err(|error| io_error("read", &directory, error))?;
            Ok(Self { directory })
        })
        .await
    }

    fn path_of(&self, job: &str) -> Result<PathBuf> {
        Ok(self.directory.join(file_name(job)?))
    }

    /// Holds the lock until the file is dropped.
    fn lock(directory: &Path) -> Result<File> {
        let path = directory.join(LOCK);
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|error| io_error("open", &path, error).not_applied())?;
        file.lock().map_err(|error| io_error("lock", &path, error).not_applied())?;
        Ok(file)
    }
}

#[async_trait]
impl CheckpointStore for FileCheckpoints {
    async fn load(&self, job: &str) -> Result<Option<Checkpoint>> {
        let (path, directory) = (self.path_of(job)?, self.directory.clone());
        blocking(move || {
            let found = read(&path)?;
            if found.is_none() {
                // A directory that vanished must not look like a job that never began.
                fs::metadata(&directory).map_err(|error| io_error("read", &directory, error))?;
            }
            Ok(found)
        })
        .await
    }

    async fn save(&self, job: &str, checkpoint: &Checkpoint) -> Result<()> {
        let (path, directory) = (self.path_of(job)?, self.directory.clone());
        let (job, checkpoint) = (job.to_owned(), checkpoint.clone());
        blocking(move || {
            let _lock = Self::lock(&directory)?;
            checkpoint.expect_after(&job, read(&path)?.as_ref())?;
            let body = serde_json::to_vec(&checkpoint).map_err(|error| {
                Error::new(Kind::Invalid, format!("cannot write the checkpoint of {job:?} as JSON"))
                    .with_source(error)
            })?;
            SEAL.replace(&path, &body)
        })
        .await
    }

    async fn remove(&self, job: &str) -> Result<()> {
        let (path, directory) = (self.path_of(job)?, self.directory.clone());
        blocking(move || {
            let _lock = Self::lock(&directory)?;
            sealed_file::remove(&path)
        })
        .await
    }

    async fn jobs(&self) -> Result<Vec<String>> {
        let directory = self.directory.clone();
        blocking(move || {
            let failed = |error| io_error("read", &directory, error);
            let mut jobs = Vec::new();
            for entry in fs::read_dir(&directory).map_err(failed)? {
                jobs.extend(entry.map_err(failed)?.file_name().to_str().and_then(job_of));
            }
            jobs.sort_unstable();
            Ok(jobs)
        })
        .await
    }
}

fn read(path: &Path) -> Result<Option<Checkpoint>> {
    let Some(body) = SEAL.read(path)? else { return Ok(None) };
    let checkpoint = serde_json::from_slice(&body)
        .map_err(|error| SEAL.damaged(path, "its body is not a checkpoint").with_source(error))?;
    Ok(Some(checkpoint))
}

/// Lower-case letters, digits, `-` and `_` stay; every other byte becomes `%` and two digits. So no two
/// jobs share a file, not even where file names ignore case, and no job leaves the directory.
fn file_name(job: &str) -> Result<String> {
    let mut name = String::with_capacity(job.len() + SUFFIX.len());
    for byte in job.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
            _ => name.push_str(&format!("%{byte:02x}")),
        }
    }
    name.push_str(SUFFIX);
    // Room for ".tmp" within the 255 bytes that file systems allow.
    if job.is_empty() || name.len() > 250 {
        let message = format!("the job name {job:?} is empty or too long for a file name: shorten it");
        return Err(Error::new(Kind::Invalid, message));
    }
    Ok(name)
}

fn job_of(file_name: &str) -> Option<String> {
    let mut parts = file_name.strip_suffix(SUFFIX)?.split('%');
    let mut job = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        job.push(u8::from_str_radix(digits, 16).ok()?);
        job.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(job).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Certainty;
    use crate::sealed_file::tests::TestDir;
    use proptest::prelude::*;

    fn sample(sequence: u64) -> Checkpoint {
        Checkpoint { sequence, ..Checkpoint::first(1, "users", vec![0, 255, 7], 1_700_000_000_000) }
    }

    proptest! {
        #[test]
        fn job_names_and_file_names_are_inverses(job in "\\PC{1,60}") {
            if let Ok(name) = file_name(&job) {
                prop_assert_eq!(job_of(&name).unwrap(), job);
                prop_assert!(!name.contains(['/', '\\', '~']) && !name.starts_with('.'));
            }
        }
    }

    #[tokio::test]
    async fn jobs_with_any_name_keep_apart() {
        let dir = TestDir::new();
        let checkpoints = FileCheckpoints::open(dir.path("c")).await.unwrap();
        let mut names = ["a/b", "..", "A", "a", "ü ", "a%2fb", "."];
        for (at, name) in names.iter().enumerate() {
            checkpoints.save(name, &sample(at as u64 + 1)).await.unwrap();
        }
        for (at, name) in names.iter().enumerate() {
            assert_eq!(checkpoints.load(name).await.unwrap().unwrap().sequence, at as u64 + 1, "{name}");
        }
        names.sort_unstable();
        assert_eq!(checkpoints.jobs().await.unwrap(), names);
        for name in ["", &"x".repeat(300)] {
            assert_eq!(checkpoints.load(name).await.unwrap_err().kind(), Kind::Invalid);
        }
    }

    #[tokio::test]
    async fn a_damaged_file_is_an_error_until_it_is_removed() {
        let dir = TestDir::new();
        let checkpoints = FileCheckpoints::open(dir.path("")).await.unwrap();
        checkpoints.save("job", &sample(1)).await.unwrap();
        let path = dir.path("job.checkpoint");
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        for error in [
            checkpoints.load("job").await.unwrap_err(),
            checkpoints.save("job", &sample(2)).await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), Kind::Damaged);
            let text = error.to_string();
            assert!(text.contains(path.to_str().unwrap()) && text.contains("remove the file"), "{text}");
        }
        checkpoints.remove("job").await.unwrap();
        assert_eq!(checkpoints.load("job").await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_leftover_of_a_crash_is_ignored() {
        let dir = TestDir::new();
        let checkpoints = FileCheckpoints::open(dir.path("")).await.unwrap();
        checkpoints.save("job", &sample(1)).await.unwrap();
        fs::write(dir.path("job.checkpoint.tmp"), "half of somethi").unwrap();
        fs::write(dir.path("other.checkpoint.tmp"), "half").unwrap();
        assert_eq!(checkpoints.load("job").await.unwrap(), Some(sample(1)));
        assert_eq!(checkpoints.jobs().await.unwrap(), ["job"]);
        checkpoints.save("job", &sample(2)).await.unwrap();
        assert_eq!(checkpoints.load("job").await.unwrap(), Some(sample(2)));
    }

    #[tokio::test]
    async fn a_directory_that_vanished_is_an_error() {
        let dir = TestDir::new();
        let checkpoints = FileCheckpoints::open(dir.path("c")).await.unwrap();
        fs::remove_dir_all(dir.path("c")).unwrap();
        assert_eq!(checkpoints.load("job").await.unwrap_err().kind(), Kind::Unavailable);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_full_disk_keeps_the_old_checkpoint() {
        let dir = TestDir::new();
        let checkpoints = FileCheckpoints::open(dir.path("")).await.unwrap();
        checkpoints.save("job", &sample(1)).await.unwrap();
        std::os::unix::fs::symlink("/dev/full", dir.path("job.checkpoint.tmp")).unwrap();
        let error = checkpoints.save("job", &sample(2)).await.unwrap_err();
        assert_eq!((error.kind(), error.certainty()), (Kind::Unavailable, Certainty::NotApplied));
        assert_eq!(checkpoints.load("job").await.unwrap(), Some(sample(1)));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn of_racing_saves_the_greatest_stands() {
        let dir = TestDir::new();
        let checkpoints = FileCheckpoints::open(dir.path("")).await.unwrap();
        let saves: Vec<_> = (1..=16)
            .map(|sequence| {
                let checkpoints = checkpoints.clone();
                tokio::spawn(async move { checkpoints.save("job", &sample(sequence)).await })
            })
            .collect();
        for save in saves {
            if let Err(error) = save.await.unwrap() {
                assert_eq!(error.kind(), Kind::Refused, "{error}");
            }
        }
        assert_eq!(checkpoints.load("job").await.unwrap(), Some(sample(16)));
    }
}
