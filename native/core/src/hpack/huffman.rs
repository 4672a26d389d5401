//! The Huffman code of RFC 7541, Appendix B. It is canonical: codes of one length are consecutive in symbol order, so
//! the lengths say all.

/// Appends the decoded text. False when a code is unknown, EOS appears, or the padding is not a short run of ones.
pub(super) fn decode(input: &[u8], out: &mut Vec<u8>) -> bool {
    let (mut window, mut bits) = (0u64, 0u32);
    let mut rest = input.iter();
    loop {
        while bits <= 56 {
            let Some(byte) = rest.next() else { break };
            window |= u64::from(*byte) << (56 - bits);
            bits += 8;
        }
        let top = (window >> 32) as u32;
        let Some((symbol, length)) = TABLE.first_code(top, bits) else { return bits < 8 && is_all_ones(window, bits) };
        if symbol == EOS {
            return false;
        }
        out.push(symbol as u8);
        window <<= length;
        bits -= length;
    }
}

#[cfg(test)]
pub(super) fn encode(text: &[u8]) -> Vec<u8> {
    let (mut out, mut window, mut bits) = (Vec::new(), 0u64, 0);
    for byte in text {
        let length = LENGTHS[usize::from(*byte)];
        window = (window << length) | u64::from(TABLE.code_of(u16::from(*byte)));
        bits += u32::from(length);
        while bits >= 8 {
            bits -= 8;
            out.push((window >> bits) as u8);
        }
    }
    if bits > 0 {
        out.push(((window << (8 - bits)) | (0xff >> bits)) as u8);
    }
    out
}

fn is_all_ones(window: u64, bits: u32) -> bool {
    bits == 0 || window >> (64 - bits) == (1 << bits) - 1
}

struct Table {
    /// Symbols by code.
    symbols: [u16; 257],
    /// Per length: its first code, aligned left in 32 bits, and the position of that code's symbol.
    first: [u32; MAX_LENGTH + 2],
    position: [u16; MAX_LENGTH + 2],
}

impl Table {
    const fn new() -> Self {
        let mut table = Self { symbols: [0; 257], first: [0; MAX_LENGTH + 2], position: [0; MAX_LENGTH + 2] };
        let (mut code, mut position, mut length) = (0u64, 0, 1);
        while length <= MAX_LENGTH {
            table.first[length] = (code << (32 - length)) as u32;
            table.position[length] = position as u16;
            let mut symbol = 0;
            while symbol < 257 {
                if LENGTHS[symbol] as usize == length {
                    table.symbols[position] = symbol as u16;
                    position += 1;
                    code += 1;
                }
                symbol += 1;
            }
            code <<= 1;
            length += 1;
        }
        table.first[MAX_LENGTH + 1] = u32::MAX;
        table.position[MAX_LENGTH + 1] = position as u16;
        table
    }

    /// Symbol and length of the first code in `top`, of which `bits` are there.
    fn first_code(&self, top: u32, bits: u32) -> Option<(u16, u32)> {
        // The code space of a length ends where the next longer one begins.
        let mut length = MIN_LENGTH;
        while length < MAX_LENGTH && top >= self.first[length + 1] {
            length += 1;
        }
        if length as u32 > bits {
            return None;
        }
        let offset = (top - self.first[length]) >> (32 - length);
        Some((self.symbols[usize::from(self.position[length]) + offset as usize], length as u32))
    }

    #[cfg(test)]
    fn code_of(&self, symbol: u16) -> u32 {
        let length = usize::from(LENGTHS[usize::from(symbol)]);
        let at = self.symbols.iter().position(|other| *other == symbol).unwrap();
        (self.first[length] >> (32 - length)) + (at as u32 - u32::from(self.position[length]))
    }
}

static TABLE: Table = Table::new();
const EOS: u16 = 256;
const MIN_LENGTH: usize = 5;
const MAX_LENGTH: usize = 30;

/// Bits of each symbol's code; the last one is EOS.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_space_is_used_up() {
        let space: u64 = LENGTHS.iter().map(|length| 1 << (32 - length)).sum();
        assert_eq!(space, 1 << 32);
        assert_eq!(TABLE.code_of(EOS), 0x3fff_ffff);
        assert_eq!(TABLE.code_of(u16::from(b'a')), 0x3);
        assert_eq!(TABLE.code_of(249), 0xfff_fffe);
    }

    #[test]
    fn each_symbol_survives() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decoded(&encode(&all)), Some(all));
    }

    #[test]
    fn refuses_eos_long_padding_and_padding_of_zeros() {
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xff]), None);
        assert_eq!(decoded(&[0b0001_1111]), Some(b"a".to_vec()));
        assert_eq!(decoded(&[0b0001_1111, 0xff]), None);
        assert_eq!(decoded(&[0b0001_1000]), None);
        assert_eq!(decoded(&[]), Some(vec![]));
    }

    fn decoded(input: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        decode(input, &mut out).then_some(out)
    }
}
