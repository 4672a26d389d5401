//! HPACK (RFC 7541). (Signatures; body follows.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    Truncated,
    Overflow,
    Index,
    Huffman,
    TableSize,
    /// The header list is larger than allowed. The dynamic table is in step: a stream error is enough.
    ListTooLarge,
}

pub struct Decoder {}
impl Decoder {
    /// `max_table`: SETTINGS_HEADER_TABLE_SIZE in force towards the peer; `max_list`: RFC 7541 size (name + value + 32 each).
    pub fn new(max_table: usize, max_list: usize) -> Self { let _ = (max_table, max_list); todo!() }
    /// After our SETTINGS with another table size were acknowledged: the peer must now announce a size update if lower.
    pub fn set_max_table(&mut self, max_table: usize) { let _ = max_table; todo!() }
    pub fn decode(&mut self, block: &[u8], each: impl FnMut(&[u8], &[u8])) -> Result<(), Error> { let _ = (block, each); todo!() }
}
/// Literal without indexing; never touches a dynamic table.
pub fn encode(out: &mut Vec<u8>, name: &[u8], value: &[u8]) { let _ = (out, name, value); todo!() }
/// `:status`; one byte where the static table has it.
pub fn encode_status(out: &mut Vec<u8>, status: u16) { let _ = (out, status); todo!() }
