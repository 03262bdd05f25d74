//! Opening: finds the chain, replays it, and tells a torn tail from damage.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;

use zdm_core::error::{Error, Kind, Result};

use super::format::{FIRST_FRAME, Frame, Header, HeaderRead, Record, RecordIter, Session};
use super::segment::{FileName, Live, SealedSegment, Spare};
use super::{IdMap, JournalSettings, Place, Records, damaged};
use crate::disk_queue::file_system::{FileSystem, JournalFile, Locked, read_fully};

const LOCK_FILE: &str = "lock";

/// What an earlier process left.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    /// The entries that were not removed, in the order of their ids.
    pub(crate) entries: Vec<(u64, Vec<u8>)>,
    /// The greatest id of any record, with what the record holds, even if it was removed since.
    pub(crate) newest: Option<(u64, Vec<u8>)>,
    /// Every stamp below this one may have been drawn.
    pub(crate) stamps: u64,
    /// How the last process ran; `None` when the directory is new.
    pub(crate) session: Option<Session>,
}

/// A journal whose past is known and that has not begun to write.
pub(crate) struct Opening<F: FileSystem> {
    pub(super) files: F,
    pub(super) lock: F::Lock,
    pub(super) settings: JournalSettings,
    /// The segments that are needed, without their records behind the last mark.
    pub(super) chain: VecDeque<SealedSegment>,
    pub(super) live: IdMap<Place>,
    /// The records behind the last mark that says what is synced.
    pub(super) tail: Records,
    /// Files that nothing needs.
    pub(super) free: Vec<Spare>,
    /// Files that are not needed once a new header says so.
    pub(super) left: Vec<Spare>,
    pub(super) next_file: FileName,
    pub(super) next_epoch: u64,
    pub(super) recovered: Recovered,
}

impl<F: FileSystem> Opening<F> {
    /// Locks the directory, which is created when it is missing, and reads what is in it. Nothing of the
    /// log is changed.
    ///
    /// # Errors
    /// `Kind::Owned` when another process has the directory; `Kind::Invalid` when it belongs to another migration or
    /// was written by a newer version; `Kind::Damaged` when acknowledged entries cannot be read;
    /// `Kind::Unavailable` when the disk fails.
    pub(crate) fn read(files: F, settings: JournalSettings) -> Result<Self> {
        let dir = settings.dir.clone();
        let failed = |error| unavailable("cannot open the queue in", &dir, error);
        create_dir(&files, &dir).map_err(failed)?;
        let lock = match files.lock(&dir.join(LOCK_FILE)).map_err(failed)? {
            Locked::Ours(lock) => lock,
            Locked::Theirs(owner) => return Err(owned(&dir, owner)),
        };
        let mut names: Vec<_> =
            files.list(&dir).map_err(failed)?.iter().filter_map(|name| FileName::parse(name)).collect();
        names.sort();
        if names.is_empty() {
            // Before the first segment, so that its directory cannot be lost with it.
            files.sync_dir(parent_of(&dir)).map_err(failed)?;
        }
        let next_file = FileName(names.last().map_or(1, |last| last.0 + 1));
        let mut opening = Self {
            files,
            lock,
            settings,
            chain: VecDeque::new(),
            live: IdMap::default(),
            tail: Records::default(),
            free: Vec::new(),
            left: Vec::new(),
            next_file,
            next_epoch: 1,
            recovered: Recovered::default(),
        };
        opening.read_segments(&names)?;
        Ok(opening)
    }

    /// How this process runs.
    pub(crate) fn session(&self) -> Session {
        self.settings.session
    }

    /// What was found. The entries can be taken out of it.
    pub(crate) fn recovered(&mut self) -> &mut Recovered {
        &mut self.recovered
    }

    fn read_segments(&mut self, names: &[FileName]) -> Result<()> {
        let mut segments = BTreeMap::new();
        let mut headless = Vec::new();
        for &name in names {
            let path = name.path(&self.settings.dir);
            match self.read_header(name)? {
                (capacity, None) => headless.push(Spare { name, capacity }),
                (capacity, Some(header)) => {
                    let epoch = header.epoch;
                    if let Some(Found { name: twin, .. }) =
                        segments.insert(epoch, Found { name, capacity, header })
                    {
                        let (path, twin) = (path.display(), twin.path(&self.settings.dir));
                        return Err(damaged(format_args!(
                            "{path} and {} are the same part of the log",
                            twin.display()
                        )));
                    }
                }
            }
        }
        let newest = segments.last_key_value().map_or(0, |(epoch, _)| *epoch);
        for file in &headless {
            self.check_headless(file.name, newest)?;
        }
        self.next_epoch = newest + 1;
        if let Some((_, last)) = segments.pop_last() {
            self.replay(&last, segments, &headless)?;
        }
        self.free.extend(headless);
        Ok(())
    }

    /// Replays the chain that ends with `last`.
    fn replay(&mut self, last: &Found, mut others: BTreeMap<u64, Found>, headless: &[Spare]) -> Result<()> {
        let bytes = self.read_file(last.name)?;
        let tail = Tail::find(&last.header, &bytes);
        if tail.end < last.header.synced {
            return Err(self.damaged_at(last, tail.end));
        }
        self.check_behind(last, &bytes, tail.end)?;
        let proven = tail.proven_epoch(&last.header, &others);

        // Backwards, because each segment tells where the one before it ends.
        let mut chain = VecDeque::new();
        let mut next = &last.header;
        for _ in 0..tail.older {
            let Some(found) = others.remove(&next.previous) else {
                return Err(self.missing(next.previous, last, tail.end, headless));
            };
            chain.push_front((found, next.previous_end));
            next = &chain[0].0.header;
        }
        for (epoch, found) in others {
            let file = Spare { name: found.name, capacity: found.capacity };
            if epoch < proven { self.free.push(file) } else { self.left.push(file) }
        }

        let mut entries = IdMap::default();
        for (found, end) in chain {
            let bytes = self.read_file(found.name)?;
            self.replay_segment(&found, &bytes, end, end, &mut entries)?;
            self.chain.push_back(found.sealed(end));
        }
        let kept = if tail.is_proven { tail.synced } else { FIRST_FRAME };
        self.replay_segment(last, &bytes, tail.end, kept, &mut entries)?;
        if tail.is_proven {
            self.chain.push_back(last.sealed(kept));
        } else {
            self.left.push(Spare { name: last.name, capacity: last.capacity });
        }

        for place in self.live.values() {
            if let Ok(index) = self.chain.binary_search_by_key(&place.epoch, |segment| segment.epoch) {
                self.chain[index].live.add(place.bytes);
            }
        }
        let mut entries: Vec<_> = entries.into_iter().collect();
        entries.sort_unstable_by_key(|(id, _)| *id);
        self.recovered.entries = entries;
        Ok(())
    }

    /// Replays the frames up to `end`, all of which must be whole. Records from `kept` on will be
    /// written again.
    fn replay_segment(
        &mut self,
        found: &Found,
        bytes: &[u8],
        end: u64,
        kept: u64,
        entries: &mut IdMap<Vec<u8>>,
    ) -> Result<()> {
        let epoch = found.header.epoch;
        self.recovered.stamps = self.recovered.stamps.max(found.header.stamps);
        self.recovered.session = Some(found.header.session);
        let mut offset = FIRST_FRAME;
        while offset < end {
            let frame = Frame::read(bytes, offset as usize).filter(|frame| frame.epoch == epoch);
            let Some(frame) = frame else { return Err(self.damaged_at(found, offset)) };
            for record in RecordIter::new(&bytes[frame.body.clone()]) {
                let Ok(record) = record else { return Err(self.damaged_at(found, offset)) };
                self.recovered.note(record);
                if offset >= kept {
                    self.tail.push(record);
                }
                match record {
                    Record::Put { id, payload } => {
                        if offset < kept {
                            let bytes = (Records::PUT_OVERHEAD + payload.len()) as u32;
                            self.live.insert(id, Place { epoch, bytes });
                        }
                        entries.insert(id, payload.to_vec());
                    }
                    Record::Remove { id } => {
                        if offset < kept {
                            self.live.remove(&id);
                        }
                        entries.remove(&id);
                    }
                    Record::Stamps { .. } | Record::Opened(_) | Record::Closed => {}
                }
            }
            offset = frame.end() as u64;
        }
        Ok(())
    }

    /// Makes sure that nothing behind the end of the last segment proves that more was acknowledged.
    fn check_behind(&self, last: &Found, bytes: &[u8], end: u64) -> Result<()> {
        // Without a reboot the system still had all that the last process wrote, synced or not.
        let (then, now) = (last.header.session.boot, self.settings.session.boot);
        let rebooted = then == [0; 16] || then != now;
        let mut from = end as usize + 8;
        while let Some(frame) = Frame::find(bytes, from) {
            if frame.epoch == last.header.epoch && (frame.synced > end || !rebooted) {
                return Err(self.damaged_at(last, end));
            }
            from = frame.end();
        }
        Ok(())
    }

    fn read_header(&self, name: FileName) -> Result<(u64, Option<Header>)> {
        let path = name.path(&self.settings.dir);
        let mut page = vec![0; FIRST_FRAME as usize];
        let read = self.files.open(&path).and_then(|file| {
            let read = read_fully(&file, &mut page, 0)?;
            Ok((read, file.len()?))
        });
        let (read, capacity) = read.map_err(|error| unavailable("cannot read", &path, error))?;
        match Header::decode(&page[..read]) {
            HeaderRead::Broken => Ok((capacity, None)),
            HeaderRead::Newer(format) => {
                let text = format!(
                    "{} has format {format}, which is newer than this version of zdm-dualwrite reads: open it with \
                     the version that wrote it, or a newer one",
                    path.display()
                );
                Err(Error::new(Kind::Invalid, text))
            }
            HeaderRead::Whole(header) if header.migration != self.settings.migration => {
                let text = format!(
                    "the queue in {} belongs to the migration \"{}\", not to \"{}\": give each migration a \
                     directory of its own",
                    self.settings.dir.display(),
                    header.migration,
                    self.settings.migration
                );
                Err(Error::new(Kind::Invalid, text))
            }
            HeaderRead::Whole(header) => Ok((capacity, Some(header))),
        }
    }

    /// A file without a header is a segment that was never begun, unless frames of a later epoch than the
    /// newest header's stand in it: only a prologue is written before the header.
    fn check_headless(&self, name: FileName, newest: u64) -> Result<()> {
        let bytes = self.read_file(name)?;
        let mut from = FIRST_FRAME as usize;
        while let Some(frame) = Frame::find(&bytes, from) {
            if frame.epoch > newest && !frame.prologue {
                let path = name.path(&self.settings.dir);
                return Err(damaged(format_args!("the header of {}", path.display())));
            }
            from = frame.end();
        }
        Ok(())
    }

    fn read_file(&self, name: FileName) -> Result<Vec<u8>> {
        let path = name.path(&self.settings.dir);
        let read = self.files.open(&path).and_then(|file| {
            let mut bytes = vec![0; file.len()? as usize];
            let read = read_fully(&file, &mut bytes, 0)?;
            bytes.truncate(read);
            Ok(bytes)
        });
        read.map_err(|error| unavailable("cannot read", &path, error))
    }

    fn damaged_at(&self, found: &Found, offset: u64) -> Error {
        damaged(format_args!("{} at byte {offset}", found.name.path(&self.settings.dir).display()))
    }

    fn missing(&self, epoch: u64, last: &Found, end: u64, headless: &[Spare]) -> Error {
        let dir = &self.settings.dir;
        let last = last.name.path(dir);
        let mut text =
            format!("part {epoch} of the log is missing, which {} needs at byte {end}", last.display());
        for file in headless {
            text.push_str(&format!(", and {} has no readable header", file.name.path(dir).display()));
        }
        damaged(text)
    }
}

impl Recovered {
    fn note(&mut self, record: Record<'_>) {
        match record {
            Record::Put { id, payload } => match &mut self.newest {
                Some((newest, _)) if *newest >= id => {}
                Some((newest, held)) => {
                    *newest = id;
                    payload.clone_into(held);
                }
                none => *none = Some((id, payload.to_vec())),
            },
            Record::Remove { .. } => {}
            Record::Stamps { below } => self.stamps = self.stamps.max(below),
            Record::Opened(session) => self.session = Some(session),
            Record::Closed => {
                if let Some(session) = &mut self.session {
                    session.closed = true;
                }
            }
        }
    }
}

/// A file with a header.
struct Found {
    name: FileName,
    capacity: u64,
    header: Header,
}

impl Found {
    fn sealed(&self, end: u64) -> SealedSegment {
        let Self { name, capacity, .. } = *self;
        SealedSegment { name, epoch: self.header.epoch, capacity, end, live: Live::default() }
    }
}

/// The end of the last segment.
struct Tail {
    /// Where its frames end.
    end: u64,
    /// Up to where they are known to be synced.
    synced: u64,
    /// How many segments before it are needed.
    older: u32,
    /// The same, as far as it is known to be synced.
    older_synced: u32,
    /// A frame proves that the header is synced.
    is_proven: bool,
}

impl Tail {
    fn find(header: &Header, bytes: &[u8]) -> Self {
        let (mut end, mut synced, mut older, mut is_proven) =
            (FIRST_FRAME, header.synced, header.older, false);
        let mut history = vec![(end, older)];
        while let Some(frame) = Frame::read(bytes, end as usize).filter(|frame| frame.epoch == header.epoch) {
            (end, synced, older) = (frame.end() as u64, synced.max(frame.synced), frame.older);
            is_proven |= !frame.prologue;
            history.push((end, older));
        }
        let known = history.partition_point(|(end, _)| *end <= synced);
        let older_synced = history[known.max(1) - 1].1;
        Self { end, synced, older, older_synced, is_proven }
    }

    /// The oldest segment that is needed as far as synced frames tell. Files before it can be written to
    /// at once: not even a power cut can make them needed again.
    fn proven_epoch(&self, header: &Header, others: &BTreeMap<u64, Found>) -> u64 {
        if !self.is_proven {
            return 0;
        }
        let (mut epoch, mut header) = (header.epoch, header);
        for _ in 0..self.older_synced {
            epoch = header.previous;
            match others.get(&epoch) {
                Some(found) => header = &found.header,
                // It was removed, and with it those before it.
                None => break,
            }
        }
        epoch
    }
}

/// Creates a directory that is missing, with those above it, and makes the names of those durable.
fn create_dir(files: &impl FileSystem, dir: &Path) -> io::Result<()> {
    match files.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other.map(drop),
    }
    let parent = parent_of(dir);
    create_dir(files, parent)?;
    match files.create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => files.sync_dir(parent),
    }
}

fn parent_of(dir: &Path) -> &Path {
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

pub(super) fn unavailable(what: &str, path: &Path, error: io::Error) -> Error {
    Error::new(Kind::Unavailable, format!("{what} {}", path.display())).not_applied().with_source(error)
}

fn owned(dir: &Path, owner: Option<u32>) -> Error {
    let owner = owner.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
    let text = format!(
        "the queue in {} is in use by {owner}: stop it first, or give this one a directory of its own",
        dir.display()
    );
    Error::new(Kind::Owned, text)
}
