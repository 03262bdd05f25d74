//! The part of CBOR that `flagd-v3` hashes: RFC 8949, core deterministic encoding.

use super::Murmur;

/// Where bytes go: into the hash.
pub(crate) fn text(value: &str, out: &mut Murmur) {
    text_header(value.len(), out);
    out.update(value.as_bytes());
}

pub(crate) fn text_header(length: usize, out: &mut Murmur) {
    header(3, length as u64, out);
}

pub(crate) fn list_header(length: usize, out: &mut Murmur) {
    header(4, length as u64, out);
}

pub(crate) fn map_header(length: usize, out: &mut Murmur) {
    header(5, length as u64, out);
}

pub(crate) fn null(out: &mut Murmur) {
    out.update(&[0xf6]);
}

pub(crate) fn boolean(value: bool, out: &mut Murmur) {
    out.update(&[if value { 0xf5 } else { 0xf4 }]);
}

pub(crate) fn whole(value: i64, out: &mut Murmur) {
    match u64::try_from(value) {
        Ok(value) => header(0, value, out),
        // -1 - n, as the format says; `!` is exactly that.
        Err(_) => header(1, (!value).cast_unsigned(), out),
    }
}

pub(crate) fn large(value: u64, out: &mut Murmur) {
    header(0, value, out);
}

/// Whole floats are written as integers, others in the shortest form that keeps their value.
pub(crate) fn float(value: f64, out: &mut Murmur) {
    // 2^63 and 2^64 are exact floats, so these comparisons are too.
    if value.fract() == 0.0 && (-9_223_372_036_854_775_808.0..18_446_744_073_709_551_616.0).contains(&value) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
        return if value < 0.0 { whole(value as i64, out) } else { large(value as u64, out) };
    }
    #[expect(clippy::cast_possible_truncation, reason = "compared with the original below")]
    let single = value as f32;
    if f64::from(single).to_bits() != value.to_bits() {
        out.update(&[0xfb]);
        out.update(&value.to_be_bytes());
    } else if let Some(half) = half(single) {
        out.update(&[0xf9]);
        out.update(&half.to_be_bytes());
    } else {
        out.update(&[0xfa]);
        out.update(&single.to_be_bytes());
    }
}

/// The bits of a half-precision float, if it can hold the value.
fn half(value: f32) -> Option<u16> {
    let bits = value.to_bits();
    let sign = u16::try_from(bits >> 16).ok()? & 0x8000;
    let exponent = i32::try_from((bits >> 23) & 0xff).ok()? - 127;
    let fraction = bits & 0x7f_ffff;
    let encoded = match exponent {
        -14..=15 if fraction & 0x1fff == 0 => (u32::try_from(exponent + 15).ok()? << 10) | (fraction >> 13),
        // Subnormal: the hidden bit becomes visible and moves right.
        -24..=-15 => {
            let shift = u32::try_from(-1 - exponent).ok()?;
            let full = fraction | 0x80_0000;
            if full & ((1 << shift) - 1) != 0 {
                return None;
            }
            full >> shift
        }
        _ => return None,
    };
    Some(sign | u16::try_from(encoded).ok()?)
}

fn header(major: u8, value: u64, out: &mut Murmur) {
    let major = major << 5;
    let bytes = value.to_be_bytes();
    match value {
        0..=23 => out.update(&[major | bytes[7]]),
        24..=0xff => out.update(&[major | 24, bytes[7]]),
        0x100..=0xffff => {
            out.update(&[major | 25]);
            out.update(&bytes[6..]);
        }
        0x1_0000..=0xffff_ffff => {
            out.update(&[major | 26]);
            out.update(&bytes[4..]);
        }
        _ => {
            out.update(&[major | 27]);
            out.update(&bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(write: impl Fn(&mut Murmur), bytes: &[u8]) {
        let (mut written, mut expected) = (Murmur::new(0), Murmur::new(0));
        write(&mut written);
        expected.update(bytes);
        assert_eq!(written, expected, "expected {bytes:02x?}");
    }

    /// Appendix A of RFC 8949.
    #[test]
    fn the_examples_of_the_standard() {
        same(|out| whole(0, out), &[0x00]);
        same(|out| whole(23, out), &[0x17]);
        same(|out| whole(24, out), &[0x18, 0x18]);
        same(|out| whole(1000, out), &[0x19, 0x03, 0xe8]);
        same(|out| whole(1_000_000, out), &[0x1a, 0x00, 0x0f, 0x42, 0x40]);
        same(|out| whole(-1, out), &[0x20]);
        same(|out| whole(-1000, out), &[0x39, 0x03, 0xe7]);
        same(|out| large(u64::MAX, out), &[0x1b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        same(|out| float(1.5, out), &[0xf9, 0x3e, 0x00]);
        same(|out| float(65504.5, out), &[0xfa, 0x47, 0x7f, 0xe0, 0x80]);
        same(|out| float(5.960_464_477_539_063e-8, out), &[0xf9, 0x00, 0x01]);
        same(|out| float(0.000_061_035_156_25, out), &[0xf9, 0x04, 0x00]);
        same(|out| float(-4.1, out), &[0xfb, 0xc0, 0x10, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66]);
        same(|out| float(3.402_823_466_385_288_6e38, out), &[0xfa, 0x7f, 0x7f, 0xff, 0xff]);
        same(|out| float(100_000.0, out), &[0x1a, 0x00, 0x01, 0x86, 0xa0]);
        same(|out| float(1.0e300, out), &[0xfb, 0x7e, 0x37, 0xe4, 0x3c, 0x88, 0x00, 0x75, 0x9c]);
        same(|out| text("IETF", out), &[0x64, 0x49, 0x45, 0x54, 0x46]);
        same(|out| boolean(true, out), &[0xf5]);
        same(null, &[0xf6]);
    }
}
