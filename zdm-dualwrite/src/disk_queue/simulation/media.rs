//! What a disk does to bytes that were being written when the power went.

use super::disk::Random;

const SECTOR: u64 = 512;

/// Puts unsynced bytes into a state in which a power cut may leave them. Each sector is on its own.
pub(super) fn spoil(bytes: &mut [u8], offset: u64, random: &mut Random) {
    let mut at = 0;
    while at < bytes.len() {
        let sector_end = (offset + at as u64) / SECTOR * SECTOR + SECTOR;
        let end = bytes.len().min((sector_end - offset) as usize);
        let sector = &mut bytes[at..end];
        match random.below(6) {
            0 => sector.fill(0),
            1 => {
                // Torn within the sector: the end never arrived.
                let kept = random.below(sector.len() as u64 + 1) as usize;
                sector[kept..].fill(0);
            }
            2 => {
                let bit = random.below(sector.len() as u64 * 8);
                sector[bit as usize / 8] ^= 1 << (bit % 8);
            }
            3 => sector.iter_mut().for_each(|byte| *byte = random.next() as u8),
            _ => {}
        }
        at = end;
    }
}
