use std::fmt;

use crate::bucketing::Bucketing;
use crate::definition::Metadata;
use crate::targeting::{Hashed, Node, Trace, Val};

/// Why a flag has the value that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The flag has no rules.
    Static,
    /// No rule matched, or there is no default variant.
    Default,
    /// A rule chose the variant.
    TargetingMatch,
    /// The flag is switched off: the code default.
    Disabled,
    /// A flag that this one requires is not as required: the code default.
    Prerequisite,
    /// A guard holds the phase back.
    Guard,
    /// A test put the value there.
    Override,
    /// There is an [`ErrorCode`]: the code default.
    Error,
}

impl Reason {
    /// The word that OpenFeature uses, or one made in its style.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Static => "STATIC",
            Self::Default => "DEFAULT",
            Self::TargetingMatch => "TARGETING_MATCH",
            Self::Disabled => "DISABLED",
            Self::Prerequisite => "PREREQUISITE",
            Self::Guard => "GUARD",
            Self::Override => "OVERRIDE",
            Self::Error => "ERROR",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What went wrong, in the words of OpenFeature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorCode {
    /// No flag of that key.
    FlagNotFound,
    /// The flag cannot be evaluated; its findings say why.
    ParseError,
    /// The value is of another type than was asked for, or would lose something.
    TypeMismatch,
    /// A rule named something that is no variant.
    General,
}

impl ErrorCode {
    /// The word that OpenFeature uses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FlagNotFound => "FLAG_NOT_FOUND",
            Self::ParseError => "PARSE_ERROR",
            Self::TypeMismatch => "TYPE_MISMATCH",
            Self::General => "GENERAL",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A value, and how it came about.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Details<'s, V> {
    /// The value that the code should use.
    pub value: V,
    /// The name of the variant. None where the value is the code default.
    pub variant: Option<&'s str>,
    /// Why.
    pub reason: Reason,
    /// What went wrong, if `reason` is [`Reason::Error`].
    pub error: Option<ErrorCode>,
    /// Why the flag cannot be evaluated, for [`ErrorCode::ParseError`].
    pub message: Option<&'s str>,
    /// The metadata of the flag laid over that of its set. None for an unknown flag.
    pub metadata: Option<&'s Metadata>,
    /// A JSON pointer to the rule that decided.
    pub rule: Option<&'s str>,
    /// Where the subject landed, if it was hashed.
    pub bucket: Option<Bucket>,
    /// The revision of the snapshot.
    pub revision: u64,
}

impl<'s, V> Details<'s, V> {
    pub(crate) fn map<W>(self, change: impl FnOnce(V) -> W) -> Details<'s, W> {
        Details {
            value: change(self.value),
            variant: self.variant,
            reason: self.reason,
            error: self.error,
            message: self.message,
            metadata: self.metadata,
            rule: self.rule,
            bucket: self.bucket,
            revision: self.revision,
        }
    }
}

/// Where a subject landed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// The hash of the subject.
    pub hash: u32,
    /// How it was computed.
    pub bucketing: Bucketing,
    /// The bucket, from 0, in the order of the rule. None where there was none to land in.
    pub index: Option<usize>,
}

impl From<Hashed> for Bucket {
    fn from(hashed: Hashed) -> Self {
        Self { hash: hashed.hash, bucketing: hashed.bucketing, index: hashed.bucket }
    }
}

/// Remembers what decided.
#[derive(Default)]
pub(crate) struct Deciding<'a> {
    pub(crate) rule: Option<&'a str>,
    pub(crate) bucket: Option<Bucket>,
}

impl<'a> Trace<'a> for Deciding<'a> {
    const ON: bool = true;

    fn value(&mut self, _: &'a Node, _: &Val<'a>) {}

    fn hashed(&mut self, _: &'a Node, hashed: Hashed) {
        self.bucket = Some(hashed.into());
    }

    fn landed(&mut self, node: &'a Node) {
        self.rule = Some(&node.path);
    }
}
