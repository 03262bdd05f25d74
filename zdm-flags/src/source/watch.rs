//! Looking at once when the system says that something changed. Polling goes on beneath it: on some file
//! systems the system says nothing.

use std::path::Path;
use std::sync::mpsc;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

/// A watch on the folder of a file. The file itself may be replaced, so it is not what is watched.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    watcher: Option<RecommendedWatcher>,
}

impl Watch {
    pub(crate) fn start(&mut self, path: &Path, changed: mpsc::Sender<()>) {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let started = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let read_only = event.as_ref().is_ok_and(|event| event.kind.is_access());
            if !read_only {
                // Once the follower has ended there is nobody to tell.
                let _ = changed.send(());
            }
        })
        .and_then(|mut watcher| watcher.watch(folder, RecursiveMode::NonRecursive).map(|()| watcher));
        match started {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(error) => tracing::warn!(
                target: "zdm_flags",
                folder = %folder.display(),
                reason = %error,
                "the folder cannot be watched; the file is polled"
            ),
        }
    }
}
