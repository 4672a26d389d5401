//! HTTP/2 framing for CONNECT tunnels, both roles (RFC 9113). A pull parser that judges each frame by itself; streams
//! and windows are the tunnel's business. Everything here may come from a hostile peer.
use std::ops::Range;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const FRAME_HEADER: usize = 9;
/// We announce no other, so a peer may send no larger frame.
pub const MAX_FRAME: usize = 16384;
/// Before a peer's SETTINGS say otherwise.
pub const DEFAULT_WINDOW: u32 = 65_535;
pub const MAX_WINDOW: i64 = 0x7fff_ffff;

pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

pub mod flag {
    pub const END_STREAM: u8 = 1;
    pub const ACK: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    pub const PRIORITY: u8 = 32;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Code {
    NoError = 0,
    Protocol = 1,
    Internal = 2,
    FlowControl = 3,
    StreamClosed = 5,
    FrameSize = 6,
    RefusedStream = 7,
    Cancel = 8,
    Compression = 9,
    Connect = 10,
    EnhanceYourCalm = 11,
}

/// The peer broke the protocol: the connection ends with this code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    pub code: Code,
    pub what: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Part of a DATA frame: `bytes` of the input belong to the stream. `flow` bytes (padding too) count for the windows.
    Data {
        stream: u32,
        bytes: Range<usize>,
        flow: u32,
        end: bool,
    },
    /// A whole header block; it is in `Reader::block`.
    Headers {
        stream: u32,
        end: bool,
    },
    Reset {
        stream: u32,
        code: u32,
    },
    /// Answer with an acknowledgement.
    Settings(Settings),
    SettingsAck,
    /// Answer with the same bytes.
    Ping([u8; 8]),
    Goaway {
        last: u32,
        code: u32,
    },
    /// Stream 0 is the connection.
    Window {
        stream: u32,
        increment: u32,
    },
}

/// What of a SETTINGS frame matters to us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    pub initial_window: Option<u32>,
    pub max_streams: Option<u32>,
    pub max_frame: Option<u32>,
}

/// Cuts a byte stream into events. Holds at most one control frame or header block.
#[derive(Debug)]
pub struct Reader {
    is_server: bool,
    /// Preface bytes that are still to come.
    preface: u8,
    header_have: u8,
    header: [u8; FRAME_HEADER],
    /// Payload bytes of the frame under way that are still to come (without padding, for DATA).
    left: u32,
    /// DATA: the pad length byte is still to come.
    pad_length_due: bool,
    /// DATA: padding at the end of the frame.
    padding: u32,
    settled: bool,
    /// A header block waits for CONTINUATION on this stream; 0 when none does.
    continuing: u32,
    continuing_end: bool,
    continuations: u8,
    /// What the peer may still cost us until the next `tick`.
    patience: u32,
    payload: Vec<u8>,
    block: Vec<u8>,
}

impl Reader {
    pub fn new(is_server: bool) -> Self {
        Self {
            is_server,
            preface: if is_server { PREFACE.len() as u8 } else { 0 },
            header_have: 0,
            header: [0; FRAME_HEADER],
            left: 0,
            pad_length_due: false,
            padding: 0,
            settled: false,
            continuing: 0,
            continuing_end: false,
            continuations: 0,
            patience: PATIENCE,
            payload: vec![],
            block: vec![],
        }
    }

    /// The header block that `Event::Headers` told of; empties it.
    pub fn take_block(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.block)
    }

    /// The peer's SETTINGS have come: it takes us for who we are.
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// Call about once a second: a peer's frames that carry nothing are limited per time.
    pub fn tick(&mut self) {
        self.patience = PATIENCE;
    }

    /// A stream was opened and given up before it was answered: that costs us more than it costs the peer.
    pub fn premature_reset(&mut self) -> Result<(), Violation> {
        self.spend(COST_OF_PREMATURE_RESET)
    }

    /// The next event in `input[*at..]`, or None when more bytes are needed (`*at` is then the end).
    pub fn next(&mut self, input: &[u8], at: &mut usize) -> Result<Option<Event>, Violation> {
        loop {
            if self.preface > 0 {
                let have = PREFACE.len() - usize::from(self.preface);
                let count = usize::from(self.preface).min(input.len() - *at);
                if input[*at..*at + count] != PREFACE[have..have + count] {
                    return violation(Code::Protocol, "no HTTP/2 preface");
                }
                self.preface -= count as u8;
                *at += count;
            }
            if usize::from(self.header_have) < FRAME_HEADER {
                let have = usize::from(self.header_have);
                let count = (FRAME_HEADER - have).min(input.len() - *at);
                self.header[have..have + count].copy_from_slice(&input[*at..*at + count]);
                self.header_have += count as u8;
                *at += count;
                if usize::from(self.header_have) < FRAME_HEADER {
                    return Ok(None);
                }
                self.begin()?;
            }
            if self.kind() == kind::DATA {
                match self.data(input, at)? {
                    Step::Event(event) => return Ok(Some(event)),
                    Step::NeedMore => return Ok(None),
                    Step::Nothing => continue,
                }
            }
            let count = (self.left as usize).min(input.len() - *at);
            if self.is_known() {
                self.payload.extend_from_slice(&input[*at..*at + count]);
            }
            *at += count;
            self.left -= count as u32;
            if self.left > 0 {
                return Ok(None);
            }
            self.header_have = 0;
            if let Some(event) = self.whole()? {
                return Ok(Some(event));
            }
        }
    }

    /// Judges a frame by its header.
    fn begin(&mut self) -> Result<(), Violation> {
        let length = u32::from_be_bytes([0, self.header[0], self.header[1], self.header[2]]);
        if length as usize > MAX_FRAME {
            return violation(Code::FrameSize, "a frame larger than was allowed");
        }
        self.left = length;
        self.payload.clear();
        let (kind, stream) = (self.kind(), self.stream());
        if !self.settled && (kind != kind::SETTINGS || self.flags() & flag::ACK != 0) {
            return violation(Code::Protocol, "the first frame is no SETTINGS");
        }
        if self.continuing != 0 && (kind != kind::CONTINUATION || stream != self.continuing) {
            return violation(Code::Protocol, "a header block is interrupted");
        }
        let of_connection = matches!(kind, kind::SETTINGS | kind::PING | kind::GOAWAY);
        let of_stream =
            matches!(kind, kind::DATA | kind::HEADERS | kind::PRIORITY | kind::RST_STREAM | kind::CONTINUATION);
        if of_connection && stream != 0 || of_stream && stream == 0 {
            return violation(Code::Protocol, "a frame on a stream where it cannot be");
        }
        let fits = match kind {
            kind::PRIORITY => length == 5,
            kind::RST_STREAM | kind::WINDOW_UPDATE => length == 4,
            kind::SETTINGS if self.flags() & flag::ACK != 0 => length == 0,
            kind::SETTINGS => length.is_multiple_of(6) && length <= MAX_SETTINGS,
            kind::PING => length == 8,
            kind::GOAWAY => length >= 8,
            kind::DATA => length > 0 || self.flags() & flag::PADDED == 0,
            _ => true,
        };
        if !fits {
            return violation(Code::FrameSize, "a frame of impossible length");
        }
        match kind {
            kind::PUSH_PROMISE => return violation(Code::Protocol, "a push"),
            kind::CONTINUATION if self.continuing == 0 => {
                return violation(Code::Protocol, "a CONTINUATION of nothing");
            }
            kind::DATA => {
                self.padding = 0;
                self.pad_length_due = self.flags() & flag::PADDED != 0;
                if length == 0 && self.flags() & flag::END_STREAM == 0 {
                    self.spend(COST_OF_NOTHING)?;
                }
            }
            kind::HEADERS => {}
            kind::WINDOW_UPDATE => self.spend(1)?,
            kind::RST_STREAM => self.spend(COST_OF_RESET)?,
            _ => self.spend(COST_OF_NOTHING)?,
        }
        Ok(())
    }

    fn data(&mut self, input: &[u8], at: &mut usize) -> Result<Step, Violation> {
        let mut flow = 0;
        if self.pad_length_due {
            let Some(padding) = input.get(*at) else { return Ok(Step::NeedMore) };
            if self.left == 0 || u32::from(*padding) > self.left - 1 {
                return violation(Code::Protocol, "padding larger than its frame");
            }
            *at += 1;
            self.padding = u32::from(*padding);
            self.left -= 1 + self.padding;
            self.pad_length_due = false;
            flow = 1 + self.padding;
        }
        let count = self.left.min((input.len() - *at) as u32);
        let bytes = *at..*at + count as usize;
        *at += count as usize;
        self.left -= count;
        let (stream, mut end) = (self.stream(), false);
        if self.left == 0 {
            // Content is through; what remains is padding, counted above already.
            let skip = self.padding.min((input.len() - *at) as u32);
            *at += skip as usize;
            self.padding -= skip;
            if self.padding == 0 {
                self.header_have = 0;
                end = self.flags() & flag::END_STREAM != 0;
            }
        }
        flow += count;
        if flow == 0 && !end {
            return Ok(if self.header_have == 0 { Step::Nothing } else { Step::NeedMore });
        }
        Ok(Step::Event(Event::Data { stream, bytes, flow, end }))
    }

    /// A frame other than DATA is complete in `payload`.
    fn whole(&mut self) -> Result<Option<Event>, Violation> {
        let stream = self.stream();
        Ok(match self.kind() {
            kind::HEADERS => self.headers()?,
            kind::CONTINUATION => self.continuation()?,
            kind::RST_STREAM => Some(Event::Reset { stream, code: number(&self.payload) }),
            kind::SETTINGS => Some(self.settings()?),
            kind::PING if self.flags() & flag::ACK != 0 => None,
            kind::PING => self.payload[..].try_into().ok().map(Event::Ping),
            kind::GOAWAY => {
                Some(Event::Goaway { last: number(&self.payload) & 0x7fff_ffff, code: number(&self.payload[4..]) })
            }
            kind::WINDOW_UPDATE => {
                let increment = number(&self.payload) & 0x7fff_ffff;
                if increment == 0 {
                    return violation(Code::Protocol, "a window update of nothing");
                }
                Some(Event::Window { stream, increment })
            }
            _ => None,
        })
    }

    fn headers(&mut self) -> Result<Option<Event>, Violation> {
        let mut fragment = &self.payload[..];
        let mut padding = 0;
        if self.flags() & flag::PADDED != 0 {
            let [first, rest @ ..] = fragment else { return violation(Code::FrameSize, "padding without its length") };
            (padding, fragment) = (usize::from(*first), rest);
        }
        if self.flags() & flag::PRIORITY != 0 {
            let Some(rest) = fragment.get(5..) else {
                return violation(Code::FrameSize, "priority without its fields");
            };
            fragment = rest;
        }
        let Some(length) = fragment.len().checked_sub(padding) else {
            return violation(Code::Protocol, "padding larger than its frame");
        };
        self.block.clear();
        self.block.extend_from_slice(&fragment[..length]);
        let (stream, end) = (self.stream(), self.flags() & flag::END_STREAM != 0);
        if self.flags() & flag::END_HEADERS != 0 {
            return Ok(Some(Event::Headers { stream, end }));
        }
        (self.continuing, self.continuing_end, self.continuations) = (stream, end, 0);
        Ok(None)
    }

    fn continuation(&mut self) -> Result<Option<Event>, Violation> {
        self.continuations += 1;
        if self.continuations > MAX_CONTINUATIONS || self.block.len() + self.payload.len() > MAX_BLOCK {
            return violation(Code::EnhanceYourCalm, "a header block without end");
        }
        self.block.extend_from_slice(&self.payload);
        if self.flags() & flag::END_HEADERS == 0 {
            return Ok(None);
        }
        let stream = std::mem::take(&mut self.continuing);
        Ok(Some(Event::Headers { stream, end: self.continuing_end }))
    }

    fn settings(&mut self) -> Result<Event, Violation> {
        if self.flags() & flag::ACK != 0 {
            return Ok(Event::SettingsAck);
        }
        self.settled = true;
        let mut settings = Settings::default();
        for entry in self.payload.chunks_exact(6) {
            let value = number(&entry[2..]);
            match u16::from_be_bytes([entry[0], entry[1]]) {
                ENABLE_PUSH if value > 1 || value == 1 && !self.is_server => {
                    return violation(Code::Protocol, "an impossible ENABLE_PUSH");
                }
                MAX_CONCURRENT_STREAMS => settings.max_streams = Some(value),
                INITIAL_WINDOW_SIZE if i64::from(value) > MAX_WINDOW => {
                    return violation(Code::FlowControl, "an initial window that is too large");
                }
                INITIAL_WINDOW_SIZE => settings.initial_window = Some(value),
                MAX_FRAME_SIZE if !(MAX_FRAME as u32..1 << 24).contains(&value) => {
                    return violation(Code::Protocol, "an impossible MAX_FRAME_SIZE");
                }
                MAX_FRAME_SIZE => settings.max_frame = Some(value),
                _ => {}
            }
        }
        Ok(Event::Settings(settings))
    }

    fn spend(&mut self, cost: u32) -> Result<(), Violation> {
        match self.patience.checked_sub(cost) {
            Some(left) => self.patience = left,
            None => return violation(Code::EnhanceYourCalm, "a flood of frames that carry nothing"),
        }
        Ok(())
    }

    fn kind(&self) -> u8 {
        self.header[3]
    }

    fn flags(&self) -> u8 {
        self.header[4]
    }

    fn stream(&self) -> u32 {
        number(&self.header[5..]) & 0x7fff_ffff
    }

    fn is_known(&self) -> bool {
        self.kind() <= kind::CONTINUATION
    }
}

/// The nine bytes before a payload.
pub fn frame_header(length: usize, kind: u8, flags: u8, stream: u32) -> [u8; FRAME_HEADER] {
    let (l, s) = ((length as u32).to_be_bytes(), stream.to_be_bytes());
    [l[1], l[2], l[3], kind, flags, s[0], s[1], s[2], s[3]]
}

/// A frame whose payload is one 32-bit number: RST_STREAM, WINDOW_UPDATE.
pub fn number_frame(kind: u8, stream: u32, value: u32) -> [u8; 13] {
    let mut frame = [0; 13];
    frame[..FRAME_HEADER].copy_from_slice(&frame_header(4, kind, 0, stream));
    frame[FRAME_HEADER..].copy_from_slice(&value.to_be_bytes());
    frame
}

pub fn goaway(last: u32, code: Code) -> [u8; 17] {
    let mut frame = [0; 17];
    frame[..FRAME_HEADER].copy_from_slice(&frame_header(8, kind::GOAWAY, 0, 0));
    frame[9..13].copy_from_slice(&last.to_be_bytes());
    frame[13..].copy_from_slice(&(code as u32).to_be_bytes());
    frame
}

/// Our SETTINGS and the connection's window, sent first (after the preface, for a client).
pub fn opening(
    is_client: bool,
    stream_window: u32,
    connection_window: u32,
    max_streams: u32,
    max_list: u32,
) -> Vec<u8> {
    let mut settings = vec![(INITIAL_WINDOW_SIZE, stream_window), (MAX_HEADER_LIST_SIZE, max_list)];
    match is_client {
        true => settings.push((ENABLE_PUSH, 0)),
        false => settings.push((MAX_CONCURRENT_STREAMS, max_streams)),
    }
    let mut out = if is_client { PREFACE.to_vec() } else { vec![] };
    out.extend_from_slice(&frame_header(settings.len() * 6, kind::SETTINGS, 0, 0));
    for (id, value) in settings {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
    out.extend_from_slice(&number_frame(kind::WINDOW_UPDATE, 0, connection_window - DEFAULT_WINDOW));
    out
}

enum Step {
    Event(Event),
    NeedMore,
    Nothing,
}

fn violation<T>(code: Code, what: &'static str) -> Result<T, Violation> {
    Err(Violation { code, what })
}

fn number(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |four| u32::from_be_bytes(*four))
}

const ENABLE_PUSH: u16 = 2;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;
const MAX_HEADER_LIST_SIZE: u16 = 6;
const MAX_SETTINGS: u32 = 6 * 64;
const MAX_BLOCK: usize = 64 << 10;
const MAX_CONTINUATIONS: u8 = 16;
const COST_OF_NOTHING: u32 = 32;
const COST_OF_RESET: u32 = 8;
const COST_OF_PREMATURE_RESET: u32 = 56;
/// Per second: 65,536 window updates, 8,192 resets (1,024 before the answer), or 2,048 frames that carry nothing.
const PATIENCE: u32 = 65_536;
