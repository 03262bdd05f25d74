use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::RandomState;
use serde_json::Value;
use zdm_core::clock::Clock;

use crate::definition::{Finding, Metadata, Variant};
use crate::evaluation::compiled::{CompiledFlag, State};
use crate::evaluation::decide::Decision;
use crate::evaluation::details::Deciding;
use crate::evaluation::{Context, Details, ErrorCode, Explanation, ValueType};
use crate::exposure::Exposures;
use crate::handle::{Flag, FlagType, PLACE_BITS};
use crate::targeting::NoTrace;

/// All flags as they are at one moment. Nothing in it changes, so a request that takes one sees one state
/// of the flags from beginning to end.
///
/// Evaluating never fails, waits or locks: what cannot be evaluated gives the code default, and
/// [`details`](Self::details) says why.
#[derive(Debug)]
pub struct Snapshot {
    /// Different for every snapshot of this process, so that handles know which one they looked into.
    id: u64,
    revision: u64,
    entries: Vec<Entry>,
    index: HashMap<Arc<str>, u32, RandomState>,
    clock: Arc<dyn Clock>,
    exposures: Option<Arc<Exposures>>,
    findings: Vec<Finding>,
    metadata: Arc<Metadata>,
}

/// A flag, and what is laid over it in this process.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) flag: Arc<CompiledFlag>,
    pub(crate) requires: Box<[(u32, Option<Box<str>>)]>,
    pub(crate) overlay: Option<Box<Overlay>>,
}

#[derive(Debug, Default)]
pub(crate) struct Overlay {
    /// What a test put there.
    pub(crate) value: Option<Variant>,
    /// Why the flag cannot be evaluated in the company of the others.
    pub(crate) broken: Option<Box<str>>,
    /// For each variant, the one that the guard lets through.
    pub(crate) ceiling: Option<Box<[u32]>>,
}

/// What a snapshot is made of.
pub(crate) struct Parts {
    pub(crate) revision: u64,
    pub(crate) entries: Vec<Entry>,
    pub(crate) index: HashMap<Arc<str>, u32, RandomState>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) exposures: Option<Arc<Exposures>>,
    pub(crate) findings: Vec<Finding>,
    pub(crate) metadata: Arc<Metadata>,
}

static NEXT: AtomicU64 = AtomicU64::new(1);

impl Snapshot {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { revision, entries, index, clock, exposures, findings, metadata } = parts;
        // Only the number counts, so nothing has to be seen in order.
        let id = NEXT.fetch_add(1, Ordering::Relaxed) & (u64::MAX >> PLACE_BITS);
        Self { id, revision, entries, index, clock, exposures, findings, metadata }
    }

    /// The value of a flag.
    #[inline]
    pub fn get<'s, T: FlagType>(&'s self, flag: &'s Flag<T>, cx: &Context<'_>) -> T::Out<'s> {
        let place = flag.place_in(self.id, |key| self.index.get(key).copied());
        match self.entries.get(place) {
            Some(entry) => self.read::<T>(entry, cx).unwrap_or_else(|| T::fallback(flag.default_value())),
            None => {
                self.report_missing(flag.key(), cx);
                T::fallback(flag.default_value())
            }
        }
    }

    /// The value of a flag whose key is known only at run time, or `default`.
    #[inline]
    pub fn by_name<'s, T: FlagType>(
        &'s self,
        key: &str,
        default: T::Out<'s>,
        cx: &Context<'_>,
    ) -> T::Out<'s> {
        match self.entry(key) {
            Some(entry) => self.read::<T>(entry, cx).unwrap_or(default),
            None => {
                self.report_missing(key, cx);
                default
            }
        }
    }

    #[inline]
    fn read<'s, T: FlagType>(&'s self, entry: &'s Entry, cx: &Context<'_>) -> Option<T::Out<'s>> {
        // The context may live shorter than the snapshot, so only the place of the variant is taken along.
        let place = {
            let decision = entry.decide(self, cx, &mut NoTrace);
            if self.watched() {
                self.report(entry, &decision, cx);
            }
            decision.place
        };
        entry.variant(place?).and_then(T::read)
    }

    /// The value of a flag, and how it came about.
    pub fn details<'s, T: FlagType>(
        &'s self,
        flag: &'s Flag<T>,
        cx: &'s Context<'s>,
    ) -> Details<'s, T::Out<'s>> {
        self.details_by_name::<T>(flag.key(), T::fallback(flag.default_value()), cx)
    }

    /// As [`by_name`](Self::by_name), and how it came about.
    pub fn details_by_name<'s, T: FlagType>(
        &'s self,
        key: &str,
        default: T::Out<'s>,
        cx: &'s Context<'s>,
    ) -> Details<'s, T::Out<'s>> {
        self.decided(key, cx, T::read).map(|value| value.unwrap_or(default))
    }

    /// Evaluates by name into JSON, for callers that learn key and type at run time. No value means that
    /// the caller's default counts.
    pub fn evaluate<'s>(
        &'s self,
        key: &str,
        wanted: ValueType,
        cx: &'s Context<'s>,
    ) -> Details<'s, Option<Value>> {
        self.decided(key, cx, |variant| wanted.read(variant))
    }

    /// Every rule that is looked at for this subject, what is hashed, and when the subject will move.
    pub fn explain<T: FlagType>(&self, flag: &Flag<T>, cx: &Context<'_>) -> Explanation {
        self.explain_by_name(flag.key(), cx)
    }

    /// As [`explain`](Self::explain), by name.
    pub fn explain_by_name(&self, key: &str, cx: &Context<'_>) -> Explanation {
        Explanation::of(self, key, cx)
    }

    /// Counts the snapshots that were made by one [`Flags`](crate::Flags), from 1.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What is wrong or risky in the files.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The metadata of the last file.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The keys of all flags.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| &*entry.flag.key)
    }

    /// The variants of a flag.
    pub fn variants(&self, key: &str) -> Option<&[Variant]> {
        self.entry(key).map(|entry| &*entry.flag.variants)
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(crate) fn entry_at(&self, index: u32) -> Option<&Entry> {
        self.entries.get(index as usize)
    }

    #[inline]
    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        self.index.get(key).and_then(|index| self.entry_at(*index))
    }

    /// Evaluates and remembers what decided.
    pub(crate) fn decided<'s, V>(
        &'s self,
        key: &str,
        cx: &'s Context<'s>,
        read: impl FnOnce(&'s Variant) -> Option<V>,
    ) -> Details<'s, Option<V>> {
        let nothing = Details {
            value: None,
            variant: None,
            reason: crate::evaluation::Reason::Error,
            error: Some(ErrorCode::FlagNotFound),
            message: None,
            metadata: None,
            rule: None,
            bucket: None,
            revision: self.revision,
        };
        let Some(entry) = self.entry(key) else {
            self.report_missing(key, cx);
            return nothing;
        };
        let mut trace = Deciding::default();
        let mut decision = entry.decide(self, cx, &mut trace);
        let variant = decision.place.and_then(|place| entry.variant(place));
        let value = variant.and_then(read);
        if variant.is_some() && value.is_none() {
            decision = Decision::error(ErrorCode::TypeMismatch);
        }
        if self.watched() {
            self.report(entry, &decision, cx);
        }
        Details {
            value,
            variant: variant.filter(|_| decision.error.is_none()).map(Variant::name),
            reason: decision.reason,
            error: decision.error,
            message: entry.fault(),
            metadata: Some(&entry.flag.metadata),
            rule: trace.rule,
            bucket: trace.bucket,
            revision: self.revision,
        }
    }

    /// Whether anybody wants to hear of evaluations.
    #[inline]
    fn watched(&self) -> bool {
        self.exposures.is_some() || tracing::enabled!(target: TARGET, tracing::Level::DEBUG)
    }

    #[inline(never)]
    fn report(&self, entry: &Entry, decision: &Decision, cx: &Context<'_>) {
        let key = &*entry.flag.key;
        let variant = decision.place.and_then(|place| entry.variant(place)).map(Variant::name);
        tracing::event!(
            name: "feature_flag.evaluation",
            target: TARGET,
            tracing::Level::DEBUG,
            "feature_flag.key" = key,
            "feature_flag.provider.name" = "zdm-flags",
            "feature_flag.result.variant" = variant,
            "feature_flag.result.reason" = decision.reason.as_str().to_ascii_lowercase(),
            "feature_flag.context.id" = cx.targeting_key(),
            "feature_flag.set.id" = entry.flag.metadata.get("flagSetId").and_then(|text| text.as_str()),
            "feature_flag.version" = entry.flag.metadata.get("version").and_then(|text| text.as_str()),
            "error.type" = decision.error.map(|error| error.as_str().to_ascii_lowercase()),
        );
        if let (Some(exposures), Some(variant)) = (&self.exposures, variant) {
            exposures.saw(key, variant, decision.reason, cx.targeting_key(), self.revision);
        }
    }

    #[cold]
    fn report_missing(&self, key: &str, cx: &Context<'_>) {
        tracing::event!(
            name: "feature_flag.evaluation",
            target: TARGET,
            tracing::Level::DEBUG,
            "feature_flag.key" = key,
            "feature_flag.provider.name" = "zdm-flags",
            "feature_flag.result.reason" = "error",
            "feature_flag.context.id" = cx.targeting_key(),
            "error.type" = "flag_not_found",
        );
    }
}

/// Where the tracing events go.
const TARGET: &str = "zdm_flags";

/// Which variant a decision means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Variant(u32),
    Override,
}

impl Entry {
    #[inline]
    pub(crate) fn variant(&self, place: Place) -> Option<&Variant> {
        match place {
            Place::Variant(index) => self.flag.variant(index),
            Place::Override => self.overlay.as_ref().and_then(|overlay| overlay.value.as_ref()),
        }
    }

    /// Why the flag cannot be evaluated.
    pub(crate) fn fault(&self) -> Option<&str> {
        match &self.flag.state {
            State::Broken(why) => Some(why),
            _ => self.overlay.as_ref().and_then(|overlay| overlay.broken.as_deref()),
        }
    }
}
