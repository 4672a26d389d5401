//! What must hold for any bytes of a peer. One function per fuzz target; `core/tests/fuzz.rs` replays the corpora with
//! the same functions.
use meltemi_core::h2::{Event, FRAME_HEADER, PREFACE, Reader, frame_header, kind};
use meltemi_core::hpack::{self, Decoder};
use meltemi_core::record::{APPLICATION_DATA, Cipher, HEADER, Keys, MAX_CIPHERTEXT, PostHandshakeReader, TRAILER};
use meltemi_core::request::Request;
use meltemi_core::spiffe::{describe, public_key, trust_domain};

/// Header blocks of one connection: whatever they are, the table stays within its limit, no list exceeds its own, and
/// what was understood survives being written and read again.
pub fn hpack(data: &[u8]) {
    let Some((limit, mut rest)) = data.split_first() else { return };
    let (max_table, max_list) = (usize::from(*limit) * 4, 2048);
    let mut decoder = Decoder::new(max_table, max_list);
    while let Some(block) = piece(&mut rest) {
        let mut fields = Vec::new();
        let result = decoder.decode(block, |name, value| fields.push((name.to_vec(), value.to_vec())));
        assert!(decoder.table_size() <= max_table);
        assert!(fields.iter().map(|(name, value)| name.len() + value.len() + 32).sum::<usize>() <= max_list);
        let mut written = Vec::new();
        for (name, value) in &fields {
            hpack::encode(&mut written, name, value);
        }
        let mut read = Vec::new();
        let again =
            Decoder::new(0, max_list).decode(&written, |name, value| read.push((name.to_vec(), value.to_vec())));
        assert_eq!((again, &read), (Ok(()), &fields));
        if !matches!(result, Ok(()) | Err(hpack::Error::ListTooLarge)) {
            return;
        }
    }
}

/// A byte stream gives the same events and the same violation however it is cut.
pub fn frames(data: &[u8]) {
    let Some((mode, stream)) = data.split_first() else { return };
    let is_server = mode & 1 != 0;
    let mut input = Vec::new();
    // Most inputs start behind the opening, where there is more to find.
    if mode & 2 == 0 {
        input.extend_from_slice(if is_server { PREFACE } else { &[] });
        input.extend_from_slice(&frame_header(0, kind::SETTINGS, 0, 0));
    }
    input.extend_from_slice(stream);
    let whole = read_all(is_server, &input, usize::MAX);
    assert_eq!(whole, read_all(is_server, &input, 1));
    assert_eq!(whole, read_all(is_server, &input, usize::from(mode >> 2) + 1));
}

/// Frames, header blocks and requests together, as the inbound side reads them.
pub fn requests(data: &[u8]) {
    let mut reader = Reader::new(true);
    let mut decoder = Decoder::new(4096, 16 << 10);
    let mut input = PREFACE.to_vec();
    input.extend_from_slice(&frame_header(0, kind::SETTINGS, 0, 0));
    input.extend_from_slice(data);
    let mut at = 0;
    while let Ok(Some(event)) = reader.next(&input, &mut at) {
        match event {
            Event::Headers { .. } => {
                let mut request = Request::default();
                let block = reader.take_block();
                if decoder.decode(&block, |name, value| request.add(name, value)).is_err() {
                    return;
                }
                check_port(&request);
            }
            Event::SettingsAck => decoder.set_max_table(0),
            _ => {}
        }
    }
}

/// Records open only when they are exactly what was sealed, in order.
pub fn records(data: &[u8]) {
    let [mode, secret, rest @ ..] = data else { return };
    let (cipher, length) = if mode & 1 == 0 { (Cipher::Aes128Gcm, 32) } else { (Cipher::Aes256Gcm, 48) };
    let secret = vec![*secret; length];
    let (Some(mut sender), Some(mut receiver)) = (Keys::new(cipher, &secret), Keys::new(cipher, &secret)) else {
        panic!("keys of the right length are refused");
    };
    let content = &rest[..rest.len().min(16384)];
    let mut slot = vec![0; HEADER + content.len() + TRAILER];
    slot[HEADER..HEADER + content.len()].copy_from_slice(content);
    let sealed = sender.seal(APPLICATION_DATA, &mut slot, content.len()).expect("fits");
    assert_eq!(sealed, slot.len());
    let (header, body) = split(&slot);
    // Garbage of the same length first, with a key of its own: sequence numbers count failures too.
    let mut garbage = vec![secret[0]; body.len().min(MAX_CIPHERTEXT)];
    let mut other = Keys::new(cipher, &secret).expect("as above");
    assert!(other.open(header, &mut garbage).is_err() || garbage == body);
    let mut damaged = body.clone();
    let at =
        content.iter().fold(usize::from(*mode), |sum, byte| sum * 31 % 65_521 + usize::from(*byte)) % damaged.len();
    damaged[at] ^= 1 << (mode >> 5);
    assert!(Keys::new(cipher, &secret).expect("as above").open(header, &mut damaged).is_err());
    let mut good = body;
    let (kind, opened) = receiver.open(header, &mut good).expect("what was sealed opens");
    assert_eq!((kind, &good[..opened]), (APPLICATION_DATA, content));
}

/// Handshake messages after the handshake, in records of any cut: a refusal at worst.
pub fn post_handshake(data: &[u8]) {
    let mut rest = data;
    let mut reader = PostHandshakeReader::default();
    while let Some(content) = piece(&mut rest) {
        if reader.read(content).is_err() {
            return;
        }
    }
    let _ = reader.is_between_messages();
}

/// An authority has a port or none; never a port that it does not end with.
pub fn authority(data: &[u8]) {
    check_port(&Request { authority: data.to_vec(), ..Request::default() });
    let domain = std::str::from_utf8(data).ok().and_then(trust_domain);
    assert!(domain.is_none_or(|domain| data["spiffe://".len()..].starts_with(domain.as_bytes())));
}

/// A chain of one certificate that is none, mostly.
pub fn certificate(data: &[u8]) {
    let leaf = data.to_vec().into();
    let key = public_key(&leaf);
    if let Ok(peer) = describe(&[leaf]) {
        assert!(trust_domain(&peer.identity).is_some());
        assert!(key.is_some() || peer.not_after == 0, "what one of the two parsers cannot read is not valid");
    }
}

fn check_port(request: &Request) {
    if let Some(port) = request.port() {
        let text = std::str::from_utf8(&request.authority).expect("has a port, so it is text");
        let (_, digits) = text.rsplit_once(':').expect("has a port");
        assert_eq!(digits.parse(), Ok(port));
    }
}

/// What a stream comes to: neighbouring pieces of one stream's data count as one.
fn read_all(is_server: bool, input: &[u8], cut: usize) -> (Vec<Seen>, Option<meltemi_core::h2::Violation>) {
    let mut reader = Reader::new(is_server);
    let mut seen: Vec<Seen> = Vec::new();
    for chunk in input.chunks(cut.min(input.len().max(1))) {
        let mut at = 0;
        loop {
            let before = at;
            match reader.next(chunk, &mut at) {
                Err(violation) => return (seen, Some(violation)),
                Ok(None) => {
                    assert_eq!(at, chunk.len(), "asked for more without using what is there");
                    break;
                }
                Ok(Some(event)) => {
                    assert!(before <= at && at <= chunk.len());
                    note(&mut seen, event, chunk, &mut reader);
                }
            }
        }
        assert!(seen.len() <= input.len() / FRAME_HEADER + 1, "more events than frames");
    }
    (seen, None)
}

fn note(seen: &mut Vec<Seen>, event: Event, chunk: &[u8], reader: &mut Reader) {
    match event {
        Event::Data { stream, bytes, flow, end } => {
            let text = &chunk[bytes];
            match seen.last_mut() {
                Some(Seen::Data(last, before, total, false)) if *last == stream => {
                    before.extend_from_slice(text);
                    *total += flow;
                    if end {
                        let (before, total) = (std::mem::take(before), *total);
                        seen.pop();
                        seen.push(Seen::Data(stream, before, total, true));
                    }
                }
                _ => seen.push(Seen::Data(stream, text.to_vec(), flow, end)),
            }
        }
        Event::Headers { stream, end } => seen.push(Seen::Headers(stream, end, reader.take_block())),
        other => seen.push(Seen::Other(other)),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Data(u32, Vec<u8>, u32, bool),
    Headers(u32, bool, Vec<u8>),
    Other(Event),
}

/// The next piece of an input that is a list of pieces, each behind its length.
fn piece<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, behind) = rest.split_first()?;
    let (piece, behind) = behind.split_at(usize::from(*length).min(behind.len()));
    *rest = behind;
    Some(piece)
}

fn split(record: &[u8]) -> ([u8; HEADER], Vec<u8>) {
    let (header, body) = record.split_at(HEADER);
    (header.try_into().expect("five bytes"), body.to_vec())
}
