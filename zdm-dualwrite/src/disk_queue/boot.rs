//! Which boot of the machine this is.

use std::fs;

/// The id that Linux draws at each boot; zero where the system has none. Two zeros are not known to be
/// the same boot.
pub(super) fn boot_id() -> [u8; 16] {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    parse(&text).unwrap_or_default()
}

fn parse(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text
        .trim()
        .chars()
        .filter(|c| *c != '-')
        .map(|c| c.to_digit(16).map(|d| d as u8))
        .collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    let bytes: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
    rest.is_empty().then(|| bytes.try_into().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_and_anything_else_is_none() {
        let id = parse("0f2a1b3c-4d5e-6f70-8192-a3b4c5d6e7f8\n").unwrap();
        assert_eq!(id[..4], [0x0F, 0x2A, 0x1B, 0x3C]);
        assert_eq!(id[15], 0xF8);
        for text in ["", "0f2a", "no id at all", "0f2a1b3c-4d5e-6f70-8192-a3b4c5d6e7f", "é"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
