//! The last good copy: what every source gave when it was last taken, in one file that is replaced whole.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::SourceError;
use crate::bucketing::Murmur;
use crate::engine::Layer;

#[derive(Serialize, Deserialize)]
struct Copy {
    format: u32,
    sources: Vec<Kept>,
}

/// What one source gave.
#[derive(Serialize, Deserialize)]
pub(crate) struct Kept {
    name: String,
    #[serde(with = "as_text")]
    pub(crate) bytes: Vec<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) signature: Option<Vec<u8>>,
    /// Of the bytes, so that a damaged copy is told from a good one.
    checksum: u32,
}

const FORMAT: u32 = 1;

/// `None` when there is no copy yet.
///
/// # Errors
/// When it cannot be read, or is damaged.
pub(crate) fn read(path: &Path) -> Result<Option<HashMap<String, Kept>>, SourceError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("cannot read", path).with_source(error)),
    };
    let copy: Copy =
        serde_json::from_slice(&bytes).map_err(|error| failed("damaged:", path).with_source(error))?;
    if copy.format != FORMAT {
        return Err(failed(
            &format!("format {} is not known, this release knows {FORMAT}:", copy.format),
            path,
        ));
    }
    if copy.sources.iter().any(|kept| checksum(&kept.bytes) != kept.checksum) {
        return Err(failed("damaged, the checksum does not fit:", path));
    }
    Ok(Some(copy.sources.into_iter().map(|kept| (kept.name.clone(), kept)).collect()))
}

/// Writes a copy beside the file and puts it in its place.
///
/// # Errors
/// When it cannot be written; the earlier copy stands.
pub(crate) fn write<'a>(
    path: &Path,
    layers: impl Iterator<Item = (&'a str, &'a Layer)>,
) -> Result<(), SourceError> {
    let sources = layers
        .map(|(name, layer)| Kept {
            name: name.to_owned(),
            bytes: layer.bytes.to_vec(),
            signature: layer.signature.as_ref().map(|signature| signature.to_vec()),
            checksum: checksum(&layer.bytes),
        })
        .collect();
    let content = serde_json::to_vec(&Copy { format: FORMAT, sources })
        .map_err(|error| failed("cannot write", path).with_source(error))?;
    let fresh = path.with_extension("new");
    let result = File::create(&fresh)
        .and_then(|mut file| {
            file.write_all(&content)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&fresh, path));
    result.map_err(|error| {
        // A full disk should not stay full because of this.
        drop(fs::remove_file(&fresh));
        failed("cannot write", path).with_source(error)
    })
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut hash = Murmur::new(0);
    hash.update(bytes);
    hash.finish()
}

fn failed(what: &str, path: &Path) -> SourceError {
    SourceError::new(format!("last good copy: {what} {}", path.display()))
}

/// Flag files are text, so the copy can be read by people.
mod as_text {
    use serde::de::{Deserialize, Deserializer};
    use serde::ser::{Error as _, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(std::str::from_utf8(bytes).map_err(S::Error::custom)?)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        String::deserialize(deserializer).map(String::into_bytes)
    }
}
