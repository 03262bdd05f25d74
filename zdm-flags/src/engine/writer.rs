use std::collections::HashMap;
use std::error::Error as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use arc_swap::ArcSwap;
use zdm_core::clock::Clock;
use zdm_core::phase::Phase;

use super::layer::{Laid, Layer, assemble};
use super::report::{Health, Report, SourceHealth};
use super::{Change, FlagsBuilder, LoadError, Shared, unix_seconds};
use crate::bucketing::Bucketing;
use crate::definition::{Finding, Severity, Variant};
use crate::exposure::Exposures;
use crate::handle::Declared;
use crate::in_code;
use crate::phase_flag::{Known, check_reload};
use crate::snapshot::Snapshot;
use crate::source::{Fetched, Source, SourceError, last_good};

/// Everything that makes new snapshots. There is one at a time, so snapshots follow one another.
pub(crate) struct Writer {
    /// Made in code, then one per source, then what is pushed.
    layers: Vec<Option<Layer>>,
    health: Vec<SourceHealth>,
    laid: Laid,
    revision: u64,
    required: Vec<&'static dyn Declared>,
    declared: Vec<&'static dyn Declared>,
    clock: Arc<dyn Clock>,
    bucketing: Bucketing,
    exposures: Option<Arc<Exposures>>,
    last_good: Option<PathBuf>,
    last_good_error: Option<String>,
    on_last_good: bool,
    start_without_sources: bool,
    subscribers: HashMap<u64, Observer>,
    next_subscriber: u64,
    #[cfg(feature = "signature")]
    trusted: Option<crate::source::signature::Trusted>,
}

type Observer = Box<dyn Fn(&Change) + Send + Sync>;

impl Writer {
    pub(crate) fn new(
        builder: FlagsBuilder,
        names: Vec<String>,
    ) -> Result<(Self, Vec<Box<dyn Source>>), LoadError> {
        let mut layers = vec![None; names.len() + 2];
        if !builder.in_code.is_empty() {
            let bytes = in_code::document(&builder.in_code)?;
            layers[0] = Some(read("flags made in code", &bytes, None, builder.bucketing, &*builder.clock)?);
        }
        let named = names.into_iter().chain(["what was pushed".to_owned()]);
        let health = named.map(|name| SourceHealth { name, ..SourceHealth::default() }).collect();
        let writer = Self {
            layers,
            health,
            laid: Laid::default(),
            revision: 0,
            required: builder.required,
            declared: builder.declared,
            clock: builder.clock,
            bucketing: builder.bucketing,
            exposures: builder.exposures,
            last_good: builder.last_good,
            last_good_error: None,
            on_last_good: false,
            start_without_sources: builder.start_without_sources,
            subscribers: HashMap::new(),
            next_subscriber: 0,
            #[cfg(feature = "signature")]
            trusted: builder.trusted,
        };
        Ok((writer, builder.sources))
    }

    /// The place of pushed files among the sources.
    pub(crate) fn pushed_slot(&self) -> usize {
        self.health.len() - 1
    }

    /// The snapshot before anything was loaded.
    pub(crate) fn empty(&self) -> Snapshot {
        self.assemble(&[], 0)
    }

    fn assemble(&self, layers: &[Layer], revision: u64) -> Snapshot {
        assemble(layers, &self.laid, revision, Arc::clone(&self.clock), self.exposures.clone())
    }

    /// Reads every source once; what does not answer is taken from the last good copy.
    pub(crate) fn first_load(
        &mut self,
        current: &ArcSwap<Snapshot>,
        sources: &[Mutex<Box<dyn Source>>],
    ) -> Result<(), LoadError> {
        let copy = match &self.last_good {
            Some(path) => last_good::read(path).unwrap_or_else(|error| {
                self.last_good_error = Some(error.to_string());
                None
            }),
            None => None,
        };
        for (slot, source) in sources.iter().enumerate() {
            let fetched = source.lock().unwrap_or_else(PoisonError::into_inner).fetch();
            let result = match fetched {
                Ok(Fetched::Content { bytes, signature }) => self.layer(slot, &bytes, signature.as_deref()),
                Ok(Fetched::Unchanged) => {
                    Err(self.no_source(slot, SourceError::new("it gave nothing at first")))
                }
                Err(error) => Err(self.no_source(slot, error)),
            };
            let error = match result {
                Ok(layer) => {
                    self.layers[slot + 1] = Some(layer);
                    self.health[slot].last_good = Some(unix_seconds(&*self.clock));
                    continue;
                }
                Err(error) => error,
            };
            self.refused(slot, &error);
            let kept = copy.as_ref().and_then(|copy| copy.get(&self.health[slot].name));
            match kept.map(|kept| self.layer(slot, &kept.bytes, kept.signature.as_deref())) {
                Some(Ok(layer)) => {
                    self.layers[slot + 1] = Some(layer);
                    self.on_last_good = true;
                }
                Some(Err(of_copy)) => {
                    self.last_good_error = Some(of_copy.to_string());
                    if !self.start_without_sources {
                        return Err(error);
                    }
                }
                None if self.start_without_sources => {}
                None => return Err(error),
            }
        }
        // What is pushed later may bring the required flags, so an engine without sources starts empty.
        if sources.is_empty() && self.layers.iter().all(Option::is_none) {
            return Ok(());
        }
        let layers = self.layers_with(None);
        let candidate = self.candidate(&layers);
        let waits = self.start_without_sources && self.health.iter().any(|source| source.refused.is_some());
        if !waits {
            self.check_required(&candidate)?;
        }
        self.publish(current, candidate);
        self.save();
        Ok(())
    }

    /// Takes a file into a slot, or refuses it and leaves everything as it is.
    pub(crate) fn put(
        &mut self,
        current: &ArcSwap<Snapshot>,
        slot: usize,
        bytes: &[u8],
        signature: Option<&[u8]>,
    ) -> Result<Change, LoadError> {
        let taken = self.layer(slot, bytes, signature).and_then(|layer| {
            let layers = self.layers_with(Some((slot + 1, &layer)));
            let candidate = self.candidate(&layers);
            self.check_required(&candidate)?;
            self.check_phases(&current.load(), &candidate)?;
            Ok((layer, candidate))
        });
        match taken {
            Ok((layer, candidate)) => {
                self.layers[slot + 1] = Some(layer);
                let health = &mut self.health[slot];
                (health.refused, health.failures) = (None, 0);
                health.last_good = Some(unix_seconds(&*self.clock));
                self.on_last_good &= self.health.iter().any(|source| source.refused.is_some());
                let change = self.publish(current, candidate);
                self.save();
                Ok(change)
            }
            Err(error) => {
                self.refused(slot, &error);
                Err(error)
            }
        }
    }

    fn layer(&self, slot: usize, bytes: &[u8], signature: Option<&[u8]>) -> Result<Layer, LoadError> {
        let name = &self.health[slot].name;
        #[cfg(feature = "signature")]
        if let Some(trusted) = &self.trusted {
            trusted.check_signature(name, bytes, signature)?;
        }
        let layer = read(name, bytes, signature, self.bucketing, &*self.clock)?;
        #[cfg(feature = "signature")]
        if let Some(trusted) = &self.trusted {
            trusted.check_revision(name, &layer, self.layers[slot + 1].as_ref())?;
        }
        Ok(layer)
    }

    fn no_source(&self, slot: usize, source: SourceError) -> LoadError {
        LoadError::Source { name: self.health[slot].name.clone(), source }
    }

    /// Keeps the reason where people find it.
    fn refused(&mut self, slot: usize, error: &LoadError) {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        let health = &mut self.health[slot];
        tracing::warn!(target: "zdm_flags", source = %health.name, reason = %text, "flags were not taken");
        health.failures = health.failures.saturating_add(1);
        health.refused = Some(text);
    }

    /// The layers in order, with one of them exchanged.
    fn layers_with(&self, other: Option<(usize, &Layer)>) -> Vec<Layer> {
        self.layers
            .iter()
            .enumerate()
            .filter_map(|(at, layer)| match other {
                Some((slot, layer)) if slot == at => Some(layer.clone()),
                _ => layer.clone(),
            })
            .collect()
    }

    fn candidate(&self, layers: &[Layer]) -> Snapshot {
        self.assemble(layers, self.revision + 1)
    }

    fn check_required(&self, candidate: &Snapshot) -> Result<(), LoadError> {
        let findings: Vec<Finding> = self
            .required
            .iter()
            .filter_map(|flag| {
                let key = flag.declared_key();
                Some(finding(key, unusable(candidate, *flag)?))
            })
            .collect();
        if findings.is_empty() { Ok(()) } else { Err(LoadError::Required(findings)) }
    }

    /// No subject of a phase flag may go back or jump.
    fn check_phases(&self, running: &Snapshot, candidate: &Snapshot) -> Result<(), LoadError> {
        let mut findings = Vec::new();
        for old in running.entries() {
            let Some(shape) = &old.flag.shape else { continue };
            if old.fault().is_some() {
                continue;
            }
            let key = &*old.flag.key;
            let new = candidate.entry(key);
            if new.is_some_and(|new| Arc::ptr_eq(&new.flag, &old.flag)) {
                continue;
            }
            let declared = self.declared.iter().find(|flag| flag.declared_key() == key);
            let known = Known {
                code_default: declared.and_then(|flag| flag.fallback_phase()),
                rollback: new.is_some_and(|new| new.flag.rollback),
                now: unix_seconds(&*self.clock),
            };
            let runs = matches!(old.flag.state, crate::evaluation::compiled::State::Enabled);
            let usable = new.filter(|new| new.fault().is_none()).and_then(|new| new.flag.shape.as_ref());
            let messages = match (new.and_then(|new| new.fault()), usable) {
                _ if !runs => Vec::new(),
                (Some(fault), _) => vec![format!("the flag is running and would break: {fault}")],
                (None, Some(shape_of_new)) => {
                    let stays_on = new.is_some_and(|new| {
                        matches!(new.flag.state, crate::evaluation::compiled::State::Enabled)
                    });
                    if stays_on {
                        check_reload(shape, shape_of_new, known)
                    } else {
                        leaves(known, "switched off")
                    }
                }
                (None, None) if new.is_none() => leaves(known, "removed"),
                (None, None) => leaves(known, "no longer a phase flag"),
            };
            findings.extend(messages.into_iter().map(|message| finding(key, message)));
        }
        if findings.is_empty() { Ok(()) } else { Err(LoadError::Phase(findings)) }
    }

    fn publish(&mut self, current: &ArcSwap<Snapshot>, candidate: Snapshot) -> Change {
        let change = Change::between(&current.load(), &candidate);
        self.revision = candidate.revision();
        current.store(Arc::new(candidate));
        tracing::info!(
            target: "zdm_flags",
            revision = change.revision,
            added = change.added.len(),
            removed = change.removed.len(),
            changed = change.changed.len(),
            "flags changed"
        );
        for observer in self.subscribers.values() {
            observer(&change);
        }
        change
    }

    fn save(&mut self) {
        let Some(path) = &self.last_good else { return };
        let sources = self.health.len() - 1;
        // A copy that lacks a source must not take the place of one that has it.
        if self.layers.iter().skip(1).take(sources).any(Option::is_none) {
            return;
        }
        let layers = self.health.iter().zip(&self.layers[1..]).take(sources);
        let kept = layers.filter_map(|(health, layer)| Some((health.name.as_str(), layer.as_ref()?)));
        self.last_good_error = last_good::write(path, kept).err().map(|error| error.to_string());
        if let Some(reason) = &self.last_good_error {
            tracing::warn!(target: "zdm_flags", reason = %reason, "the last good copy was not written");
        }
    }

    /// Makes a new snapshot after something was laid over the flags.
    fn refresh(&mut self, current: &ArcSwap<Snapshot>) -> Change {
        let candidate = self.candidate(&self.layers_with(None));
        self.publish(current, candidate)
    }

    pub(crate) fn lower_ceiling(
        &mut self,
        current: &ArcSwap<Snapshot>,
        key: &str,
        ceiling: Phase,
    ) -> Result<Change, LoadError> {
        let is_phase = current.load().entry(key).is_some_and(|entry| entry.flag.is_phase());
        if !is_phase {
            return Err(LoadError::Setting(format!(
                "{key:?} is no phase flag, so there is nothing to hold back"
            )));
        }
        let position = crate::phase_flag::position;
        let lower = self.laid.ceilings.get(key).is_none_or(|known| position(ceiling) < position(*known));
        if lower {
            self.laid.ceilings.insert(key.to_owned(), ceiling);
        }
        Ok(self.refresh(current))
    }

    pub(crate) fn lift_ceiling(&mut self, current: &ArcSwap<Snapshot>, key: &str) -> Change {
        self.laid.ceilings.remove(key);
        self.refresh(current)
    }

    /// Returns what was there before.
    pub(crate) fn set_override(
        &mut self,
        current: &ArcSwap<Snapshot>,
        key: &str,
        variant: Option<Variant>,
    ) -> Option<Variant> {
        let before = match variant {
            Some(variant) => self.laid.overrides.insert(key.to_owned(), variant),
            None => self.laid.overrides.remove(key),
        };
        self.refresh(current);
        before
    }

    pub(crate) fn subscribe(&mut self, observer: Observer) -> u64 {
        self.next_subscriber += 1;
        self.subscribers.insert(self.next_subscriber, observer);
        self.next_subscriber
    }

    pub(crate) fn unsubscribe(&mut self, id: u64) {
        self.subscribers.remove(&id);
    }

    pub(crate) fn report(&self, snapshot: &Snapshot) -> Report {
        let mut report = Report::default();
        for flag in &self.declared {
            let key = flag.declared_key();
            if snapshot.entry(key).is_none() {
                report.missing.push(key.to_owned());
            } else if let Some(why) = unusable(snapshot, *flag) {
                report.mismatched.push((key.to_owned(), why));
            }
        }
        let declared = |key: &&str| self.declared.iter().any(|flag| flag.declared_key() == *key);
        report.undeclared = snapshot.keys().filter(|key| !declared(key)).map(str::to_owned).collect();
        report
    }

    pub(crate) fn health(&self, snapshot: &Snapshot) -> Health {
        Health {
            revision: snapshot.revision(),
            sources: self.health.clone(),
            findings: snapshot.findings().to_vec(),
            last_good_error: self.last_good_error.clone(),
            on_last_good: self.on_last_good,
        }
    }
}

fn read(
    name: &str,
    bytes: &[u8],
    signature: Option<&[u8]>,
    bucketing: Bucketing,
    clock: &dyn Clock,
) -> Result<Layer, LoadError> {
    Layer::read(bytes, signature, bucketing, clock)
        .map_err(|source| LoadError::Parse { name: name.to_owned(), source })
}

fn finding(key: &str, message: String) -> Finding {
    let key = key.replace('~', "~0").replace('/', "~1");
    Finding { severity: Severity::Error, path: format!("/flags/{key}"), message, disables_flag: false }
}

fn leaves(known: Known, what: &str) -> Vec<String> {
    if known.rollback {
        return Vec::new();
    }
    vec![format!(
        "the flag is running and would be {what}, which sends its subjects to the code default; set \
         \"zdm.rollback\": true first if that is meant"
    )]
}

/// Why the code cannot use a flag that is there, or that it is not there.
fn unusable(snapshot: &Snapshot, flag: &dyn Declared) -> Option<String> {
    let Some(entry) = snapshot.entry(flag.declared_key()) else {
        return Some("the code requires this flag, and it is not there".to_owned());
    };
    if let Some(fault) = entry.fault() {
        return Some(format!("the flag cannot be evaluated: {fault}"));
    }
    let wrong = entry.flag.variants.iter().find(|variant| !flag.accepts(variant))?;
    Some(format!(
        "the code wants a {}, and cannot use the variant {:?}: {}",
        flag.expected().word(),
        wrong.name(),
        wrong.value()
    ))
}

/// Asks one source, and takes what it gives.
pub(crate) fn poll(shared: &Shared, slot: usize) -> Result<Option<Change>, LoadError> {
    let fetched = shared.sources[slot].lock().unwrap_or_else(PoisonError::into_inner).fetch();
    let mut writer = shared.writer();
    match fetched {
        Ok(Fetched::Unchanged) => Ok(None),
        Ok(Fetched::Content { bytes, signature }) => {
            writer.put(&shared.current, slot, &bytes, signature.as_deref()).map(Some)
        }
        Err(error) => {
            let error = writer.no_source(slot, error);
            writer.refused(slot, &error);
            Err(error)
        }
    }
}

/// Starts one thread per source. They end soon after the last [`Flags`](super::Flags) is dropped.
pub(crate) fn follow(shared: &Arc<Shared>) -> Result<(), LoadError> {
    let mut senders = Vec::new();
    for slot in 0..shared.sources.len() {
        let (sender, receiver) = mpsc::channel::<()>();
        shared.sources[slot].lock().unwrap_or_else(PoisonError::into_inner).on_change(sender.clone());
        senders.push(sender);
        let weak = Arc::downgrade(shared);
        let spawned = thread::Builder::new().name("zdm-flags".to_owned()).spawn(move || {
            loop {
                let Some(pause) = weak.upgrade().map(|shared| {
                    let failures = shared.writer().health[slot].failures;
                    shared.sources[slot].lock().unwrap_or_else(PoisonError::into_inner).pause(failures)
                }) else {
                    return;
                };
                match receiver.recv_timeout(pause) {
                    Err(mpsc::RecvTimeoutError::Disconnected) => return,
                    Ok(()) | Err(mpsc::RecvTimeoutError::Timeout) => {}
                }
                let Some(shared) = weak.upgrade() else { return };
                // A refusal is in the health of the source; the thread goes on.
                drop(poll(&shared, slot));
            }
        });
        if let Err(error) = spawned {
            return Err(LoadError::Setting(format!(
                "no thread could be started to follow a source: {error}"
            )));
        }
    }
    *shared.wake.lock().unwrap_or_else(PoisonError::into_inner) = senders;
    Ok(())
}
