use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use super::{Fetched, Source, SourceError};

/// A file that is read again whenever it changes.
///
/// It is looked at by its path, through symbolic links: an editor that writes a new file and renames it, and
/// a mounted Kubernetes ConfigMap whose links are swapped, are both seen. A file that is half written does
/// not parse and is refused; the next look takes the whole one.
///
/// Where the engine wants signatures, they are read from the same path with `.sig` at its end.
#[derive(Debug)]
pub struct FileSource {
    path: PathBuf,
    every: Duration,
    seen: Option<Seen>,
    #[cfg(feature = "notify")]
    watch: Option<super::watch::Watch>,
}

/// What a file looked like when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    file: Stamp,
    signature: Option<Stamp>,
    /// The file was written so shortly before it was read that another write may have left the same stamp.
    young: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    #[cfg(unix)]
    node: (u64, u64, i64, i64),
}

/// Clocks of file systems tick up to this slowly.
const TICK: Duration = Duration::from_secs(2);

impl FileSource {
    /// Looks at the file once per second.
    pub fn poll(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            every: Duration::from_secs(1),
            seen: None,
            #[cfg(feature = "notify")]
            watch: None,
        }
    }

    /// As [`poll`](Self::poll), and looks at once when the system says that the folder has changed.
    #[cfg(feature = "notify")]
    pub fn watch(path: impl Into<PathBuf>) -> Self {
        Self { watch: Some(super::watch::Watch::default()), ..Self::poll(path) }
    }

    /// How long to wait between two looks. Default: 1 s. At least 10 ms.
    #[must_use]
    pub fn every(mut self, every: Duration) -> Self {
        self.every = every.max(Duration::from_millis(10));
        self
    }

    fn look(&self) -> Result<Seen, SourceError> {
        let metadata = fs::metadata(&self.path).map_err(|error| self.cannot("read", &self.path, error))?;
        let file = Stamp::of(&metadata);
        let signature = fs::metadata(self.signature_path()).ok().map(|metadata| Stamp::of(&metadata));
        let age = file.modified.and_then(|modified| SystemTime::now().duration_since(modified).ok());
        let young = age.is_none_or(|age| age < TICK);
        Ok(Seen { file, signature, young })
    }

    fn signature_path(&self) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".sig");
        name.into()
    }

    fn cannot(&self, what: &str, path: &Path, error: std::io::Error) -> SourceError {
        SourceError::new(format!("cannot {what} {}", path.display())).with_source(error)
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            modified: metadata.modified().ok(),
            length: metadata.len(),
            #[cfg(unix)]
            node: {
                use std::os::unix::fs::MetadataExt as _;
                (metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
            },
        }
    }
}

impl Source for FileSource {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn fetch(&mut self) -> Result<Fetched, SourceError> {
        let seen = self.look()?;
        if self.seen.as_ref().is_some_and(|known| *known == seen && !known.young) {
            return Ok(Fetched::Unchanged);
        }
        let bytes = fs::read(&self.path).map_err(|error| self.cannot("read", &self.path, error))?;
        let signature = match &seen.signature {
            None => None,
            Some(_) => {
                let path = self.signature_path();
                Some(fs::read(&path).map_err(|error| self.cannot("read", &path, error))?)
            }
        };
        self.seen = Some(seen);
        Ok(Fetched::Content { bytes, signature })
    }

    fn pause(&self, _: u32) -> Duration {
        self.every
    }

    #[cfg(feature = "notify")]
    fn on_change(&mut self, changed: mpsc::Sender<()>) {
        if let Some(watch) = &mut self.watch {
            watch.start(&self.path, changed);
        }
    }

    #[cfg(not(feature = "notify"))]
    fn on_change(&mut self, _: mpsc::Sender<()>) {}
}
