//! Detached Ed25519 signatures, and a revision that may not go back.

use ed25519_dalek::{Signature, VerifyingKey};

use crate::engine::{Layer, LoadError};
use crate::evaluation::compiled::REVISION;

/// Whose files are taken.
#[derive(Clone, Debug)]
pub(crate) struct Trusted {
    key: VerifyingKey,
}

impl Trusted {
    pub(crate) fn new(public_key: [u8; 32]) -> Result<Self, LoadError> {
        VerifyingKey::from_bytes(&public_key)
            .map(|key| Self { key })
            .map_err(|error| LoadError::Setting(format!("the trusted key is no Ed25519 public key: {error}")))
    }

    /// The signature covers the bytes of the file exactly as they are.
    pub(crate) fn check_signature(
        &self,
        name: &str,
        bytes: &[u8],
        signature: Option<&[u8]>,
    ) -> Result<(), LoadError> {
        let untrusted =
            |message: &str| LoadError::Untrusted { name: name.to_owned(), message: message.to_owned() };
        let signature = signature.ok_or_else(|| untrusted("it has no signature"))?;
        let signature = decode(signature)
            .ok_or_else(|| untrusted("its signature must be 64 bytes, or 128 hexadecimal digits"))?;
        self.key
            .verify_strict(bytes, &Signature::from_bytes(&signature))
            .map_err(|_| untrusted("its signature does not fit the trusted key and the file"))
    }

    /// An old file with its old, good signature must not come back.
    pub(crate) fn check_revision(
        &self,
        name: &str,
        new: &Layer,
        running: Option<&Layer>,
    ) -> Result<(), LoadError> {
        let untrusted = |message: String| LoadError::Untrusted { name: name.to_owned(), message };
        let Some(revision) = revision(new) else {
            return Err(untrusted(format!(
                "a signed file needs \"{REVISION}\", a whole number, in the metadata of the set"
            )));
        };
        let Some((running, before)) = running.and_then(|running| Some((running, self::revision(running)?)))
        else {
            return Ok(());
        };
        if revision < before {
            return Err(untrusted(format!(
                "its revision is {revision}, that of the running one is {before}"
            )));
        }
        if revision == before && running.bytes != new.bytes {
            return Err(untrusted(format!("another file with the revision {revision} is running already")));
        }
        Ok(())
    }
}

pub(crate) fn revision(layer: &Layer) -> Option<u64> {
    layer.metadata.get(REVISION).and_then(serde_json::Value::as_u64)
}

fn decode(signature: &[u8]) -> Option<[u8; 64]> {
    if let Ok(bytes) = signature.try_into() {
        return Some(bytes);
    }
    let digits: Vec<u8> = signature
        .trim_ascii()
        .iter()
        .map(|byte| char::from(*byte).to_digit(16))
        .map(|digit| digit.and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    (digits.len() == 128).then(|| bytes.try_into().ok()).flatten()
}
