//! A simulated disk: `turmoil-fs` says what is durable, and the faults are added here.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use turmoil_fs::Fs;
use turmoil_fs::shim::std::fs as shim;

use super::media::spoil;
use crate::disk_queue::file_system::{FileSystem, JournalFile, Locked};

/// Numbers that follow from a seed.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub(super) fn chance(&mut self, per_thousand: u64) -> bool {
        self.below(1000) < per_thousand
    }
}

/// Cheap to clone; all clones are the same disk.
#[derive(Clone)]
pub(super) struct SimulatedDisk {
    fs: Fs,
    state: Arc<Mutex<State>>,
}

struct State {
    random: Random,
    /// Operations until the power goes.
    power_for: Option<u64>,
    locked: bool,
    /// Files cannot grow; now and then writing over old bytes fails too.
    full: bool,
    /// Of a thousand writes and syncs, how many fail for good.
    failing: u64,
    /// What was written to each file and is not known to be on the disk.
    unsynced: HashMap<PathBuf, Vec<Unsynced>>,
}

struct Unsynced {
    start: u64,
    end: u64,
    /// A sync of it has failed. The system takes it for written, so later syncs pass it by.
    given_up: bool,
}

enum Refusal {
    PowerIsOff,
    Full,
    Broken,
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::PowerIsOff => Self::other("the power is off"),
            Refusal::Full => ErrorKind::StorageFull.into(),
            Refusal::Broken => Self::from_raw_os_error(5),
        }
    }
}

impl SimulatedDisk {
    pub(super) fn new(seed: u64) -> Self {
        let fs = Fs::builder().seed(seed).sync_probability(0.02).short_read_probability(0.1).block_size(512);
        Self::on(fs.build(), seed)
    }

    /// A disk that does nothing of its own accord.
    pub(super) fn without_chance() -> Self {
        Self::on(Fs::builder().build(), 0)
    }

    fn on(fs: Fs, seed: u64) -> Self {
        let random = Random::new(seed ^ 0xA5A5);
        let state = State {
            random,
            power_for: None,
            locked: false,
            full: false,
            failing: 0,
            unsynced: HashMap::new(),
        };
        Self { fs, state: Arc::new(Mutex::new(state)) }
    }

    fn lock_state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(super) fn set_full(&self, full: bool) {
        self.lock_state().full = full;
    }

    pub(super) fn set_failing(&self, per_thousand: u64) {
        self.lock_state().failing = per_thousand;
    }

    pub(super) fn cut_power_after(&self, operations: u64) {
        self.lock_state().power_for = Some(operations);
    }

    pub(super) fn has_power(&self) -> bool {
        self.lock_state().power_for != Some(0)
    }

    /// Everything that was not synced is lost, or kept, or spoiled, and the power comes back.
    pub(super) fn restart_machine(&self) {
        let _entered = self.fs.enter();
        self.fs.crash();
        let mut state = self.lock_state();
        state.power_for = None;
        state.locked = false;
        let mut unsynced: Vec<_> = std::mem::take(&mut state.unsynced).into_iter().collect();
        unsynced.sort_by(|a, b| a.0.cmp(&b.0));
        for (path, ranges) in unsynced {
            // A file whose name was not durable is gone with everything in it.
            let Ok(file) = shim::OpenOptions::new().read(true).write(true).open(&path) else { continue };
            for Unsynced { start, end, .. } in ranges {
                let end = end.min(file.metadata().unwrap().len());
                let mut bytes = vec![0; end.saturating_sub(start) as usize];
                read_all(&file, &mut bytes, start);
                spoil(&mut bytes, start, &mut state.random);
                file.write_all_at(&bytes, start).unwrap();
            }
            file.sync_all().unwrap();
        }
    }

    /// The segment files of a directory, in the order of their names.
    pub(super) fn segments(&self, dir: &Path) -> Vec<PathBuf> {
        let _entered = self.fs.enter();
        let mut names: Vec<_> = shim::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.retain(|path| path.extension().is_some_and(|suffix| suffix == "segment"));
        names.sort();
        names
    }

    /// What a file holds.
    pub(super) fn read_whole(&self, path: &Path) -> Vec<u8> {
        let _entered = self.fs.enter();
        shim::read(path).unwrap()
    }

    /// Another disk with the same segments, except that one of them holds these bytes.
    pub(super) fn copy_with(&self, path: &Path, bytes: &[u8]) -> Self {
        let copy = Self::without_chance();
        let dir = path.parent().unwrap();
        let files = self.segments(dir).into_iter().map(|file| {
            let bytes = if file == path { bytes.to_vec() } else { self.read_whole(&file) };
            (file, bytes)
        });
        let files: Vec<_> = files.collect();
        let _entered = copy.fs.enter();
        shim::create_dir_all(dir).unwrap();
        for (file, bytes) in files {
            shim::write(&file, &bytes).unwrap();
            shim::File::open(&file).unwrap().sync_all().unwrap();
        }
        shim::sync_dir(dir).unwrap();
        copy
    }

    /// Flips one bit of one segment file. Returns the file.
    pub(super) fn flip_a_bit(&self, dir: &Path) -> PathBuf {
        let names = self.segments(dir);
        let _entered = self.fs.enter();
        let mut state = self.lock_state();
        let path = names[state.random.below(names.len() as u64) as usize].clone();
        let file = shim::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let bit = state.random.below(file.metadata().unwrap().len() * 8);
        let mut byte = [0];
        read_all(&file, &mut byte, bit / 8);
        byte[0] ^= 1 << (bit % 8);
        file.write_all_at(&byte, bit / 8).unwrap();
        file.sync_all().unwrap();
        path
    }

    pub(super) fn total_bytes(&self, dir: &Path) -> u64 {
        let _entered = self.fs.enter();
        let Ok(entries) = shim::read_dir(dir) else { return 0 };
        entries.map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
    }

    /// Counts an operation down; nothing happens after the last.
    fn power(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.lock_state();
        match &mut state.power_for {
            Some(0) => return Err(Refusal::PowerIsOff.into()),
            Some(left) => *left -= 1,
            None => {}
        }
        if state.power_for == Some(0) { Err(Refusal::PowerIsOff.into()) } else { Ok(state) }
    }
}

fn read_all(file: &shim::File, bytes: &mut [u8], offset: u64) {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], offset + done as u64).unwrap() {
            0 => break,
            read => done += read,
        }
    }
}

impl FileSystem for SimulatedDisk {
    type File = SimulatedFile;
    type Lock = SimulatedLock;

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        drop(self.power()?);
        let _entered = self.fs.enter();
        shim::create_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        drop(self.power()?);
        let _entered = self.fs.enter();
        let names = shim::read_dir(dir)?.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        Ok(names.collect())
    }

    fn create(&self, path: &Path) -> io::Result<SimulatedFile> {
        if self.power()?.full {
            return Err(Refusal::Full.into());
        }
        let _entered = self.fs.enter();
        let file = shim::OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(SimulatedFile { disk: self.clone(), path: path.to_owned(), file })
    }

    fn open(&self, path: &Path) -> io::Result<SimulatedFile> {
        drop(self.power()?);
        let _entered = self.fs.enter();
        let file = shim::OpenOptions::new().read(true).write(true).open(path)?;
        Ok(SimulatedFile { disk: self.clone(), path: path.to_owned(), file })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.power()?.unsynced.remove(path);
        let _entered = self.fs.enter();
        shim::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        drop(self.power()?);
        let _entered = self.fs.enter();
        shim::sync_dir(dir)
    }

    fn lock(&self, _path: &Path) -> io::Result<Locked<SimulatedLock>> {
        let mut state = self.power()?;
        if std::mem::replace(&mut state.locked, true) {
            return Ok(Locked::Theirs(Some(1)));
        }
        Ok(Locked::Ours(SimulatedLock(self.clone())))
    }
}

pub(super) struct SimulatedLock(SimulatedDisk);

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        self.0.lock_state().locked = false;
    }
}

pub(super) struct SimulatedFile {
    disk: SimulatedDisk,
    path: PathBuf,
    file: shim::File,
}

impl SimulatedFile {
    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let _entered = self.disk.fs.enter();
        let mut state = self.disk.lock_state();
        let (start, end) = (offset, offset + bytes.len() as u64);
        let ranges = state.unsynced.entry(self.path.clone()).or_default();
        let mut rest = Vec::new();
        for range in ranges.drain(..) {
            // What is written anew is no longer given up.
            if range.start < start {
                rest.push(Unsynced { end: range.end.min(start), ..range });
            }
            if range.end > end {
                rest.push(Unsynced { start: range.start.max(end), ..range });
            }
        }
        rest.push(Unsynced { start, end, given_up: false });
        *ranges = rest;
        drop(state);
        self.file.write_all_at(bytes, offset)
    }
}

impl JournalFile for SimulatedFile {
    fn len(&self) -> io::Result<u64> {
        drop(self.disk.power()?);
        let _entered = self.disk.fs.enter();
        self.file.metadata().map(|metadata| metadata.len())
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        drop(self.disk.power()?);
        let _entered = self.disk.fs.enter();
        self.file.read_at(bytes, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let grows = offset + bytes.len() as u64 > self.len()?;
        let had_power = self.disk.has_power();
        let mut state = match self.disk.power() {
            Ok(state) => state,
            Err(error) if !had_power => return Err(error),
            Err(error) => {
                // The power goes during this write: any part of it may be there.
                let part = self.disk.lock_state().random.below(bytes.len() as u64 + 1);
                self.write(&bytes[..part as usize], offset)?;
                return Err(error);
            }
        };
        let full = state.full && (grows || state.random.chance(200));
        let failing = state.failing;
        let broken = state.random.chance(failing);
        let part = state.random.below(bytes.len() as u64 + 1) as usize;
        drop(state);
        if full || broken {
            self.write(&bytes[..part], offset)?;
            return Err(if full { Refusal::Full } else { Refusal::Broken }.into());
        }
        self.write(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.power()?;
        let failing = state.failing;
        let fails = state.random.chance(failing);
        let ranges = state.unsynced.entry(self.path.clone()).or_default();
        if fails {
            ranges.iter_mut().for_each(|range| range.given_up = true);
            return Err(Refusal::Broken.into());
        }
        ranges.retain(|range| range.given_up);
        drop(state);
        let _entered = self.disk.fs.enter();
        self.file.sync_data()
    }
}
