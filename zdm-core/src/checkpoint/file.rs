use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::contract::check_successor;
use super::{Checkpoint, CheckpointStore};
use crate::durable_file::{blocking, failed, read, replace, sync_parent};
use crate::error::{Error, Kind, Result};

const MAGIC: [u8; 8] = *b"zdmckpt1";
const ADVICE: &str = "restore it from a copy, or remove it to begin the job anew";

/// Checkpoints in a folder, one file for each job, replaced whole.
///
/// ```
/// use zdm_core::checkpoint::{Checkpoint, CheckpointStore, FileCheckpoints};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// # let folder = std::env::temp_dir().join(format!("zdm-doc-{}", std::process::id()));
/// let checkpoints = FileCheckpoints::open(&folder).await?;
/// let first = Checkpoint {
///     format: 1, sequence: 1, subject: "flights".to_owned(), position: vec![42], updated_at: 0,
/// };
/// checkpoints.save("backfill", &first).await?;
/// assert!(checkpoints.save("backfill", &first).await.is_err(), "a checkpoint never goes back");
/// assert_eq!(checkpoints.load("backfill").await?, Some(first));
/// # std::fs::remove_dir_all(&folder).unwrap();
/// # Ok::<_, zdm_core::Error>(()) }).unwrap();
/// ```
#[derive(Debug)]
pub struct FileCheckpoints {
    folder: Arc<Path>,
    /// Load, compare and replace are one step.
    saving: Mutex<()>,
}

impl FileCheckpoints {
    /// Uses a folder, which is made if it is not there.
    ///
    /// # Errors
    /// [`Kind::Unavailable`] naming the folder.
    pub async fn open(folder: impl Into<PathBuf>) -> Result<Self> {
        let folder: Arc<Path> = folder.into().into();
        let own = Arc::clone(&folder);
        blocking(move || {
            fs::create_dir_all(&*own).map_err(|error| failed("cannot make the folder", &own, error))?;
            sync_parent(&own)
        })
        .await?;
        Ok(Self { folder, saving: Mutex::new(()) })
    }

    fn path(&self, job: &str) -> Result<PathBuf> {
        let name = file_name(job);
        if job.is_empty() || name.len() > 200 {
            let message = format!("the job name {job:?} is empty or too long for a file name");
            return Err(Error::new(Kind::Invalid, message));
        }
        Ok(self.folder.join(format!("{name}.checkpoint")))
    }
}

/// A job name as a file name: letters, digits, `-` and `_` stand for themselves, other bytes are `%XX`.
fn file_name(job: &str) -> String {
    let mut name = String::new();
    for byte in job.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
            _ => name.push_str(&format!("%{byte:02X}")),
        }
    }
    name
}

fn job_name(file: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = file.strip_suffix(".checkpoint")?.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'%' {
            let (code, tail) = rest.split_first_chunk::<2>()?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok()?);
            rest = tail;
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

fn load(path: &Path) -> Result<Option<Checkpoint>> {
    let Some(content) = read(path, MAGIC, ADVICE)? else { return Ok(None) };
    serde_json::from_slice(&content).map(Some).map_err(|error| {
        let message = format!("{} holds no checkpoint that this program can read; {ADVICE}", path.display());
        Error::new(Kind::Damaged, message).with_source(error)
    })
}

#[async_trait]
impl CheckpointStore for FileCheckpoints {
    async fn load(&self, job: &str) -> Result<Option<Checkpoint>> {
        let path = self.path(job)?;
        blocking(move || load(&path)).await
    }

    async fn save(&self, job: &str, checkpoint: &Checkpoint) -> Result<()> {
        let _one_at_a_time = self.saving.lock().await;
        let (path, job, next) = (self.path(job)?, job.to_owned(), checkpoint.clone());
        blocking(move || {
            check_successor(&job, load(&path)?.as_ref(), &next)?;
            let content = serde_json::to_vec(&next).map_err(|error| failed("cannot write", &path, error))?;
            replace(&path, MAGIC, &content)
        })
        .await
    }

    async fn remove(&self, job: &str) -> Result<()> {
        let path = self.path(job)?;
        blocking(move || match fs::remove_file(&path) {
            Ok(()) => sync_parent(&path),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed("cannot remove", &path, error)),
        })
        .await
    }

    async fn jobs(&self) -> Result<Vec<String>> {
        let folder = Arc::clone(&self.folder);
        blocking(move || {
            let mut jobs = Vec::new();
            for file in fs::read_dir(&*folder).map_err(|error| failed("cannot read", &folder, error))? {
                let file = file.map_err(|error| failed("cannot read", &folder, error))?;
                jobs.extend(file.file_name().to_str().and_then(job_name));
            }
            jobs.sort();
            Ok(jobs)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("zdm-checkpoint-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&folder));
        folder
    }

    fn checkpoint(sequence: u64) -> Checkpoint {
        Checkpoint { format: 1, sequence, subject: "flights".into(), position: vec![0, 255], updated_at: 7 }
    }

    #[tokio::test]
    async fn a_checkpoint_comes_back_after_reopening_and_never_goes_back() {
        let folder = folder("back");
        let store = FileCheckpoints::open(&folder).await.unwrap();
        let job = "back/fill %1 ü";
        assert_eq!(store.load(job).await.unwrap(), None);
        store.save(job, &checkpoint(1)).await.unwrap();
        store.save(job, &checkpoint(2)).await.unwrap();
        assert_eq!(store.save(job, &checkpoint(2)).await.unwrap_err().kind(), Kind::Refused);
        let other = Checkpoint { subject: "users".into(), ..checkpoint(9) };
        let error = store.save(job, &other).await.unwrap_err();
        assert!(error.to_string().contains("flights") && error.to_string().contains("users"), "{error}");
        drop(store);

        let store = FileCheckpoints::open(&folder).await.unwrap();
        assert_eq!(store.load(job).await.unwrap(), Some(checkpoint(2)));
        assert_eq!(store.jobs().await.unwrap(), [job]);
        store.remove(job).await.unwrap();
        assert_eq!(store.load(job).await.unwrap(), None);
        fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn every_damaged_byte_and_every_cut_is_an_error() {
        let folder = folder("damaged");
        let store = FileCheckpoints::open(&folder).await.unwrap();
        store.save("job", &checkpoint(1)).await.unwrap();
        let path = store.path("job").unwrap();
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut flipped = good.clone();
            flipped[at] ^= 1;
            for bad in [&flipped[..], &good[..at]] {
                fs::write(&path, bad).unwrap();
                let error = store.load("job").await.unwrap_err();
                assert_eq!(error.kind(), Kind::Damaged, "byte {at}");
                assert!(error.to_string().contains("job.checkpoint"), "{error}");
            }
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn a_replacement_that_cannot_be_written_leaves_the_earlier_one() {
        let folder = folder("full");
        let store = FileCheckpoints::open(&folder).await.unwrap();
        store.save("job", &checkpoint(1)).await.unwrap();
        // A folder in the place of the new file makes writing it fail, as a full disk does.
        fs::create_dir(store.path("job").unwrap().with_extension("new")).unwrap();
        let error = store.save("job", &checkpoint(2)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable);
        assert_eq!(store.load("job").await.unwrap(), Some(checkpoint(1)));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn another_table_and_a_newer_format_are_named() {
        let error = checkpoint(1).expect("backfill", "users", 1).unwrap_err();
        assert!(
            error.to_string().contains("\"flights\"") && error.to_string().contains("\"users\""),
            "{error}"
        );
        let error = checkpoint(1).expect("backfill", "flights", 0).unwrap_err();
        assert!(error.to_string().contains("format 1"), "{error}");
    }
}
