//! Numbers and names as JSON has them, appended to a line.

use crate::units::Nanos;

/// The digits of 0 to 99: half as many divisions, which are most of what a number costs.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut n = 0;
    while n < 100 {
        pairs[n] = [b'0' + (n / 10) as u8, b'0' + (n % 10) as u8];
        n += 1;
    }
    pairs
};

pub(super) fn put_number(line: &mut Vec<u8>, mut value: u64) {
    if value < 10 {
        // Most numbers are sizes of grids and blocks, and most of those are 1.
        return line.push(b'0' + value as u8);
    }
    let mut digits = [0; 20];
    let mut at = digits.len();
    while value >= 10 {
        at -= 2;
        digits[at..at + 2].copy_from_slice(&PAIRS[(value % 100) as usize]);
        value /= 100;
    }
    if value > 0 {
        at -= 1;
        digits[at] = b'0' + value as u8;
    }
    line.extend_from_slice(&digits[at..]);
}

pub(super) fn put_micros(line: &mut Vec<u8>, time: Nanos) {
    put_number(line, time.0 / 1000);
    let rest = (time.0 % 1000) as usize;
    if rest > 0 {
        let [tens, ones] = PAIRS[rest % 100];
        line.extend_from_slice(&[b'.', b'0' + (rest / 100) as u8, tens, ones]);
    }
}

pub(super) fn put_escaped(line: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'"' => line.extend_from_slice(b"\\\""),
            b'\\' => line.extend_from_slice(b"\\\\"),
            // The last of them is legal in JSON, but not for every viewer.
            0..0x20 | 0x7f => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                line.extend_from_slice(b"\\u00");
                line.push(HEX[usize::from(byte >> 4)]);
                line.push(HEX[usize::from(byte & 15)]);
            }
            _ => line.push(byte),
        }
    }
}

/// Lower-case hexadecimal of so many digits.
pub(super) fn put_hex(line: &mut Vec<u8>, value: u128, digits: u32) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    line.extend((0..digits).rev().map(|digit| HEX[(value >> (4 * digit)) as usize & 15]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_are_those_of_the_standard_formatter() {
        let powers = (0..20).map(|n| 10_u64.pow(n));
        let around = powers.flat_map(|n| [n - 1, n, n + 1, n.saturating_mul(9) / 2]);
        for value in (0..2000).chain(around).chain([u64::MAX - 1, u64::MAX]) {
            let mut line = Vec::new();
            put_number(&mut line, value);
            assert_eq!(line, value.to_string().as_bytes());
            line.clear();
            put_micros(&mut line, Nanos(value));
            let rest =
                if value % 1000 == 0 { String::new() } else { format!(".{:03}", value % 1000) };
            assert_eq!(String::from_utf8_lossy(&line), format!("{}{rest}", value / 1000));
        }
    }
}
