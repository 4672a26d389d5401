//! The send buffer of a thread: records laid out back to back. Content is written (or read from a socket) right where
//! it will be sealed, and many small frames share one open record. It serves one tunnel at a time.
use crate::record::{APPLICATION_DATA, HANDSHAKE, HEADER, KEY_UPDATE, KEY_UPDATE_RECORD, Keys, MAX_CONTENT, TRAILER};

/// A full record.
pub const SLOT: usize = HEADER + MAX_CONTENT + TRAILER;
const NONE: u32 = u32::MAX;

pub struct Stage {
    buffer: Vec<u8>,
    /// The tunnel whose records these are.
    owner: u32,
    /// Sealed bytes.
    end: usize,
    /// Content bytes of the record that is open behind them.
    open: usize,
}

impl Stage {
    pub fn new(records: usize) -> Self {
        Self { buffer: vec![0; records * SLOT + KEY_UPDATE_RECORD], owner: NONE, end: 0, open: 0 }
    }

    pub fn owner(&self) -> Option<u32> {
        (self.owner != NONE).then_some(self.owner)
    }

    pub fn own(&mut self, tunnel: u32) {
        debug_assert!(self.owner == NONE || self.owner == tunnel);
        self.owner = tunnel;
    }

    /// Room for content in the open record.
    pub fn room(&self) -> usize {
        MAX_CONTENT - self.open
    }

    /// False when not even one more record fits: time to send.
    pub fn has_slot(&self) -> bool {
        self.end + SLOT + KEY_UPDATE_RECORD <= self.buffer.len()
    }

    /// Appends to the open record. The caller has made sure of room.
    pub fn push(&mut self, bytes: &[u8]) {
        let at = self.end + HEADER + self.open;
        self.buffer[at..at + bytes.len()].copy_from_slice(bytes);
        self.open += bytes.len();
    }

    /// Where content may be read to: behind `reserve` bytes in each of up to `slots` records, `most` bytes in all.
    /// The pieces are (offset in the buffer, length).
    pub fn pieces(&self, reserve: usize, slots: usize, most: usize, out: &mut Vec<(usize, usize)>) {
        let (mut base, mut open, mut left) = (self.end, self.open, most);
        while out.len() < slots && left > 0 && base + SLOT + KEY_UPDATE_RECORD <= self.buffer.len() {
            let length = (MAX_CONTENT - open - reserve).min(left);
            out.push((base + HEADER + open + reserve, length));
            left -= length;
            base += SLOT;
            open = 0;
        }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    pub fn bytes(&self, at: usize, length: usize) -> &[u8] {
        &self.buffer[at..at + length]
    }

    /// Takes a piece that was filled as content of the open record, `header` before it.
    pub fn claim(&mut self, header: &[u8], length: usize) {
        self.push(header);
        self.open += length;
    }

    /// Seals the open record, if there is one.
    pub fn seal(&mut self, keys: &mut Keys) {
        if self.open == 0 {
            return;
        }
        let sealed = keys.seal(APPLICATION_DATA, &mut self.buffer[self.end..], self.open);
        self.end += sealed.unwrap_or(0);
        self.open = 0;
    }

    /// Seals a KeyUpdate behind what is there and moves the keys on.
    pub fn update_keys(&mut self, keys: &mut Keys) {
        self.seal(keys);
        let at = self.end + HEADER;
        self.buffer[at..at + KEY_UPDATE.len()].copy_from_slice(&KEY_UPDATE);
        let sealed = keys.seal(HANDSHAKE, &mut self.buffer[self.end..], KEY_UPDATE.len());
        self.end += sealed.unwrap_or(0);
        keys.update();
    }

    /// Appends a record of another content type (an alert).
    pub fn push_record(&mut self, keys: &mut Keys, content_type: u8, content: &[u8]) {
        self.seal(keys);
        let at = self.end + HEADER;
        self.buffer[at..at + content.len()].copy_from_slice(content);
        let sealed = keys.seal(content_type, &mut self.buffer[self.end..], content.len());
        self.end += sealed.unwrap_or(0);
    }

    /// What is to be sent; the stage is free afterwards.
    pub fn take(&mut self) -> &[u8] {
        let end = std::mem::take(&mut self.end);
        self.owner = NONE;
        self.open = 0;
        &self.buffer[..end]
    }
}
