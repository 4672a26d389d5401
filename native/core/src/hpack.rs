//! HPACK (RFC 7541): reads what any peer may send, writes the little that CONNECT needs, without a dynamic table.
mod huffman;
mod static_table;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

/// Why a header block is refused. All but `ListTooLarge` are connection errors (COMPRESSION_ERROR).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The block ends within a field.
    Truncated,
    /// An integer beyond any sane length.
    Overflow,
    /// No such entry in the static or dynamic table.
    Index,
    /// Not a Huffman-coded text.
    Huffman,
    /// A table size update that is too large or not at the block's beginning.
    TableSize,
    /// The header list is larger than allowed. The dynamic table is in step: a stream error is enough.
    ListTooLarge,
}

/// The decoding half of a connection.
pub struct Decoder {
    table: DynamicTable,
    max_table: usize,
    max_list: usize,
    /// Text of the field at hand, where it is not a slice of the block or of the static table.
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Decoder {
    /// `max_table`: the SETTINGS_HEADER_TABLE_SIZE that the peer may assume; `max_list`: sum of name + value + 32 over a
    /// block's fields.
    pub fn new(max_table: usize, max_list: usize) -> Self {
        let table = DynamicTable { entries: VecDeque::new(), size: 0, limit: max_table };
        Self { table, max_table, max_list, name: Vec::new(), value: Vec::new() }
    }

    /// Our SETTINGS with another table size were acknowledged. A peer that forgets to announce its smaller table is
    /// forgiven: it can only name entries that are gone, which is refused.
    pub fn set_max_table(&mut self, max_table: usize) {
        self.max_table = max_table;
        if self.table.limit > max_table {
            self.table.resize(max_table);
        }
    }

    /// Calls `each` with the fields of one whole block, in order. After any error but `ListTooLarge` the connection is
    /// of no use.
    pub fn decode(&mut self, block: &[u8], mut each: impl FnMut(&[u8], &[u8])) -> Result<(), Error> {
        let mut input = Input(block);
        let (mut list, mut fields) = (0usize, 0usize);
        while let Some(first) = input.0.first().copied() {
            if first & 0xe0 == 0x20 {
                let size = input.integer(5)?;
                if fields > 0 || size > self.max_table {
                    return Err(Error::TableSize);
                }
                self.table.resize(size);
                continue;
            }
            fields += 1;
            let indexed = first & 0x80 != 0;
            let (prefix, remember) =
                if indexed { (7, false) } else { (if first & 0x40 != 0 { 6 } else { 4 }, first & 0x40 != 0) };
            let index = input.integer(prefix)?;
            self.read_name(index, indexed, &mut input)?;
            if !indexed {
                self.value.clear();
                input.text(&mut self.value)?;
            }
            list = list.saturating_add(self.name.len() + self.value.len() + ENTRY_OVERHEAD);
            if list <= self.max_list {
                each(&self.name, &self.value);
            }
            if remember {
                self.table.insert(&self.name, &self.value);
            }
        }
        if list > self.max_list { Err(Error::ListTooLarge) } else { Ok(()) }
    }

    /// Bytes of the dynamic table, by RFC 7541's measure.
    pub fn table_size(&self) -> usize {
        self.table.size
    }

    fn read_name(&mut self, index: usize, with_value: bool, input: &mut Input) -> Result<(), Error> {
        self.name.clear();
        if index == 0 {
            return if with_value { Err(Error::Index) } else { input.text(&mut self.name) };
        }
        let known = static_table::entry(index).or_else(|| self.table.entry(index - static_table::LENGTH));
        let (name, value) = known.ok_or(Error::Index)?;
        self.name.extend_from_slice(name);
        if with_value {
            self.value.clear();
            self.value.extend_from_slice(value);
        }
        Ok(())
    }
}

/// Appends one field: an index where the static table has it all, else a literal that is never indexed by the peer.
pub fn encode(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    match static_table::find(name, value) {
        Some((index, true)) => push_integer(out, 0x80, 7, index),
        Some((index, false)) => {
            push_integer(out, 0, 4, index);
            push_text(out, value);
        }
        None => {
            out.push(0);
            push_text(out, name);
            push_text(out, value);
        }
    }
}

/// Appends `:status`.
pub fn encode_status(out: &mut Vec<u8>, status: u16) {
    let digits = [status / 100, status / 10 % 10, status % 10].map(|digit| b'0' + (digit % 10) as u8);
    encode(out, b":status", &digits);
}

fn push_text(out: &mut Vec<u8>, text: &[u8]) {
    push_integer(out, 0, 7, text.len());
    out.extend_from_slice(text);
}

fn push_integer(out: &mut Vec<u8>, flags: u8, prefix: u32, value: usize) {
    let max = (1 << prefix) - 1;
    if value < max {
        return out.push(flags | value as u8);
    }
    out.push(flags | max as u8);
    let mut rest = value - max;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// What is left of a block.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Result<u8, Error> {
        let (first, rest) = self.0.split_first().ok_or(Error::Truncated)?;
        self.0 = rest;
        Ok(*first)
    }

    fn integer(&mut self, prefix: u32) -> Result<usize, Error> {
        let max = (1 << prefix) - 1;
        let mut value = usize::from(self.byte()?) & max;
        if value < max {
            return Ok(value);
        }
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Error::Overflow)
    }

    fn text(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        let coded = self.0.first().is_some_and(|byte| byte & 0x80 != 0);
        let length = self.integer(7)?;
        let (text, rest) = self.0.split_at_checked(length).ok_or(Error::Truncated)?;
        self.0 = rest;
        if !coded {
            out.extend_from_slice(text);
            return Ok(());
        }
        if huffman::decode(text, out) { Ok(()) } else { Err(Error::Huffman) }
    }
}

/// Newest entry first.
struct DynamicTable {
    entries: VecDeque<Entry>,
    size: usize,
    limit: usize,
}

struct Entry {
    text: Box<[u8]>,
    name_length: usize,
}

impl DynamicTable {
    /// Entry of an index that starts at 1 behind the static table.
    fn entry(&self, index: usize) -> Option<(&[u8], &[u8])> {
        self.entries.get(index - 1).map(|entry| entry.text.split_at(entry.name_length))
    }

    /// An entry larger than the table empties it, which is no error.
    fn insert(&mut self, name: &[u8], value: &[u8]) {
        let size = name.len() + value.len() + ENTRY_OVERHEAD;
        self.shrink_to(self.limit.saturating_sub(size));
        if size <= self.limit {
            self.entries.push_front(Entry { text: [name, value].concat().into(), name_length: name.len() });
            self.size += size;
        }
    }

    fn resize(&mut self, limit: usize) {
        self.limit = limit;
        self.shrink_to(limit);
    }

    fn shrink_to(&mut self, size: usize) {
        while self.size > size {
            let Some(oldest) = self.entries.pop_back() else { break };
            self.size -= oldest.text.len() + ENTRY_OVERHEAD;
        }
    }
}

const ENTRY_OVERHEAD: usize = 32;
