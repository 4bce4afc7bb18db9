//! Numbers and names as JSON has them, appended to a line.

use crate::units::Nanos;

pub(super) fn put_number(line: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    line.extend_from_slice(&digits[at..]);
}

pub(super) fn put_micros(line: &mut Vec<u8>, time: Nanos) {
    put_number(line, time.0 / 1000);
    let rest = (time.0 % 1000) as u16;
    if rest > 0 {
        let digit = |n: u16| b'0' + (n % 10) as u8;
        line.extend_from_slice(&[b'.', digit(rest / 100), digit(rest / 10), digit(rest)]);
    }
}

pub(super) fn put_escaped(line: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'"' => line.extend_from_slice(b"\\\""),
            b'\\' => line.extend_from_slice(b"\\\\"),
            0..0x20 => {
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
