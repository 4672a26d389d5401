//! Our records against rustls, and our frame parser against everything.
mod support;
use meltemi_core::h2::{self, Code, Event, Reader, Settings, flag, frame_header, kind, number_frame};
use meltemi_core::keys::Key;
use meltemi_core::record::{
    ALERT, APPLICATION_DATA, HANDSHAKE, HEADER, KEY_UPDATE, Keys, PostHandshake, PostHandshakeReader, RecordError,
    TRAILER,
};
use meltemi_core::spiffe::Trust;
use meltemi_core::tls::{Certificate, Handshake};
use proptest::prelude::*;
use rustls::pki_types::CertificateDer;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;
use support::*;

#[test]
fn both_ends_of_our_own_handshake_agree_on_keys_and_peers() {
    let (client, server) = shake(&Ca::new("cluster.local"));
    assert_eq!((client.peer.identity.as_str(), server.peer.identity.as_str()), (B, A));
    let (mut tx, mut rx) = (client.tx, server.rx);
    for round in 0..200u32 {
        if round % 7 == 3 {
            tx.update().unwrap();
            rx.update().unwrap();
        }
        let text = vec![round as u8; round as usize * 80];
        let mut record = sealed(&mut tx, APPLICATION_DATA, &text);
        assert_eq!(opened(&mut rx, &mut record), Ok((APPLICATION_DATA, text)));
    }
}

#[test]
fn rustls_reads_our_records_and_we_read_its_across_key_updates_of_both() {
    let ca = Ca::new("cluster.local");
    let (mut theirs, ours) = shake_with_rustls(&ca);
    let (mut tx, mut rx) = (ours.tx, ours.rx);
    for round in 0..20u8 {
        // Ours to them.
        let mut wire = sealed(&mut tx, APPLICATION_DATA, &[round; 3000]);
        if round % 3 == 0 {
            wire.extend(sealed(&mut tx, HANDSHAKE, &KEY_UPDATE));
            tx.update().unwrap();
        }
        wire.extend(sealed(&mut tx, APPLICATION_DATA, &[round; 10]));
        theirs.read_tls(&mut &wire[..]).unwrap();
        theirs.process_new_packets().unwrap();
        let mut text = vec![0; 3010];
        theirs.reader().read_exact(&mut text).unwrap();
        assert_eq!(text, [round; 3010]);

        // Theirs to us.
        theirs.writer().write_all(&[round; 20_000]).unwrap();
        if round % 4 == 1 {
            theirs.refresh_traffic_keys().unwrap();
        }
        theirs.writer().write_all(b"after").unwrap();
        let mut wire = vec![];
        while theirs.wants_write() {
            theirs.write_tls(&mut wire).unwrap();
        }
        let mut text = vec![];
        let mut rest = &mut wire[..];
        let mut messages = PostHandshakeReader::default();
        while !rest.is_empty() {
            let length = usize::from(u16::from_be_bytes([rest[3], rest[4]]));
            let (record, after) = rest.split_at_mut(HEADER + length);
            let (content_type, content) = opened(&mut rx, record).unwrap();
            match content_type {
                HANDSHAKE => {
                    assert!(matches!(messages.read(&content), Ok(PostHandshake::KeyUpdate { .. })));
                    rx.update().unwrap();
                }
                _ => text.extend(content),
            }
            rest = after;
        }
        assert_eq!(text.len(), 20_005);
        assert!(text.ends_with(b"after"));
    }
    theirs.send_close_notify();
    let mut wire = vec![];
    theirs.write_tls(&mut wire).unwrap();
    assert_eq!(opened(&mut rx, &mut wire), Ok((ALERT, vec![1, 0])));
}

#[test]
fn a_changed_reordered_or_empty_record_is_refused() {
    let (client, server) = shake(&Ca::new("cluster.local"));
    let (mut tx, mut rx) = (client.tx, server.rx);
    let mut record = sealed(&mut tx, APPLICATION_DATA, b"text");
    record[7] ^= 1;
    assert_eq!(opened(&mut rx, &mut record), Err(RecordError::Bad));

    let (client, server) = shake(&Ca::new("cluster.local"));
    let (mut tx, mut rx) = (client.tx, server.rx);
    sealed(&mut tx, APPLICATION_DATA, b"first");
    let mut second = sealed(&mut tx, APPLICATION_DATA, b"second");
    assert_eq!(opened(&mut rx, &mut second), Err(RecordError::Bad));

    let (client, server) = shake(&Ca::new("cluster.local"));
    let (mut tx, mut rx) = (client.tx, server.rx);
    // Nothing but padding: no inner type at all.
    let mut record = sealed(&mut tx, 0, &[0; 9]);
    assert_eq!(opened(&mut rx, &mut record), Err(RecordError::Bad));
}

#[test]
fn keys_go_on_from_their_plain_state() {
    let (client, server) = shake(&Ca::new("cluster.local"));
    let (mut tx, mut rx) = (client.tx, server.rx);
    let mut first = sealed(&mut tx, APPLICATION_DATA, b"here");
    opened(&mut rx, &mut first).unwrap();
    let (cipher, secret, sequence) = tx.state();
    let mut elsewhere = Keys::resume(cipher, secret, sequence).unwrap();
    let mut second = sealed(&mut elsewhere, APPLICATION_DATA, b"there");
    assert_eq!(opened(&mut rx, &mut second), Ok((APPLICATION_DATA, b"there".to_vec())));
}

#[test]
fn post_handshake_messages_may_come_in_pieces_but_not_run_wild() {
    let mut reader = PostHandshakeReader::default();
    let ticket = [&[4, 0, 1, 44][..], &[9; 300]].concat();
    assert_eq!(reader.read(&ticket[..100]), Ok(PostHandshake::Nothing));
    assert!(!reader.is_between_messages());
    assert_eq!(
        reader.read(&[&ticket[100..], &[24, 0, 0, 1, 1]].concat()),
        Ok(PostHandshake::KeyUpdate { answer: true })
    );
    assert!(reader.is_between_messages());
    for bad in
        [&[24, 0, 0, 1, 2][..], &[24, 0, 0, 2, 0, 0], &[24, 0, 0, 1, 0, 4], &[1, 0, 0, 0], &[4, 255, 255, 255], &[]]
    {
        assert!(PostHandshakeReader::default().read(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn the_whole_chain_must_be_good_and_the_first_to_expire_counts() {
    use meltemi_core::spiffe::{PeerEnd, PeerError};
    use rustls::pki_types::UnixTime;
    let root = Ca::new("cluster.local");
    let (middle, middle_der) = root.intermediate(Duration::from_secs(300));
    let key = Key::generate().unwrap();
    let (leaf, _) = middle.leaf(A, key.public(), Duration::from_secs(3000));
    let (leaf, middle_der) = (CertificateDer::from(leaf), CertificateDer::from(middle_der));
    let trust = trust(&root);
    let now = UnixTime::now();
    let chain = std::slice::from_ref(&middle_der);
    let peer = trust.verify(&leaf, chain, now, PeerEnd::Client).unwrap();
    assert!(peer.not_after.abs_diff(now.as_secs() + 300) <= 2);
    let later = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs() + 400));
    assert!(matches!(trust.verify(&leaf, chain, later, PeerEnd::Client), Err(PeerError::Expired(_))));
    assert!(matches!(trust.verify(&leaf, &[], now, PeerEnd::Client), Err(PeerError::Untrusted(..))));
    // The intermediate itself is on a list.
    let trust = trust.with_revocations(&[root.crl(&[1])]).unwrap();
    assert!(matches!(trust.verify(&leaf, chain, now, PeerEnd::Client), Err(PeerError::Revoked(_))));
    // Names that are no identity.
    for name in ["https://cluster.local/ns/a", "spiffe://cluster.local", "spiffe://Cluster.local/a"] {
        let (leaf, _) = root.leaf(name, key.public(), Duration::from_secs(60));
        let verdict = trust.verify(&leaf.into(), &[], now, PeerEnd::Server);
        assert!(matches!(verdict, Err(PeerError::NoIdentity(_))), "{name}");
    }
    // A key of its own, and an identity of its own.
    let other = Key::generate().unwrap();
    let chain = || vec![leaf.to_vec(), middle_der.to_vec()];
    assert!(Certificate::new(A, chain(), &other).unwrap_err().contains("another key"));
    assert!(Certificate::new(B, chain(), &key).unwrap_err().contains("not for"));
    assert!(Certificate::new(A, chain(), &key).is_ok());
    assert!(Certificate::new(A, vec![], &key).is_err());
}

fn sealed(keys: &mut Keys, content_type: u8, content: &[u8]) -> Vec<u8> {
    let mut slot = vec![0; HEADER + content.len() + TRAILER];
    slot[HEADER..HEADER + content.len()].copy_from_slice(content);
    let length = keys.seal(content_type, &mut slot, content.len()).unwrap();
    assert_eq!(length, slot.len());
    slot
}

fn opened(keys: &mut Keys, record: &mut [u8]) -> Result<(u8, Vec<u8>), RecordError> {
    let (header, body) = record.split_at_mut(HEADER);
    let (content_type, length) = keys.open((&*header).try_into().unwrap(), body)?;
    Ok((content_type, body[..length].to_vec()))
}

fn certificate(ca: &Ca, identity: &str) -> Certificate {
    let key = Key::generate().unwrap();
    let (leaf, _) = ca.leaf(identity, key.public(), Duration::from_secs(60));
    Certificate::new(identity, vec![leaf], &key).unwrap()
}

fn trust(ca: &Ca) -> Arc<Trust> {
    Arc::new(Trust::default().with_anchors(&[(ca.trust_domain.clone(), vec![ca.root.clone()])]).unwrap())
}

fn shake(ca: &Ca) -> (meltemi_core::tls::Established, meltemi_core::tls::Established) {
    let mut client = Handshake::client(&certificate(ca, A), trust(ca), vec![B.into()]).unwrap();
    let mut server = Handshake::server(&certificate(ca, B), trust(ca)).unwrap();
    let (mut client_done, mut server_done) = (false, false);
    while !client_done || !server_done {
        server_done |= feed(&mut server, |out| client.output(out));
        client_done |= feed(&mut client, |out| server.output(out));
    }
    (client.finish().unwrap(), server.finish().unwrap())
}

fn feed(to: &mut Handshake, from: impl FnOnce(&mut Vec<u8>)) -> bool {
    let mut wire = vec![];
    from(&mut wire);
    let mut done = false;
    let mut rest = &wire[..];
    while !rest.is_empty() {
        let length = HEADER + usize::from(u16::from_be_bytes([rest[3], rest[4]]));
        done |= to.feed(&rest[..length]).unwrap();
        rest = &rest[length..];
    }
    done
}

/// A rustls client that takes any server, against our server side.
fn shake_with_rustls(ca: &Ca) -> (rustls::ClientConnection, meltemi_core::tls::Established) {
    let key = rcgen::KeyPair::generate().unwrap();
    let (leaf, _) = ca.leaf(A, &rcgen::PublicKeyData::subject_public_key_info(&key), Duration::from_secs(60));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(ca.root.clone())).unwrap();
    let mut config = rustls::ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_client_auth_cert(vec![leaf.into()], key.serialize_der().try_into().unwrap())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut theirs = rustls::ClientConnection::new(Arc::new(config), "b".try_into().unwrap()).unwrap();
    let mut ours = Handshake::server(&certificate(ca, B), trust(ca)).unwrap();
    loop {
        let done = feed(&mut ours, |out| {
            while theirs.wants_write() {
                theirs.write_tls(out).unwrap();
            }
        });
        let mut wire = vec![];
        ours.output(&mut wire);
        theirs.read_tls(&mut &wire[..]).unwrap();
        theirs.process_new_packets().unwrap();
        if done {
            return (theirs, ours.finish().unwrap());
        }
    }
}

#[derive(Debug)]
struct AnyServer;

impl rustls::client::danger::ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        unreachable!()
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

// Frames.

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    [&frame_header(payload.len(), kind, flags, stream)[..], payload].concat()
}

fn settings() -> Vec<u8> {
    frame(kind::SETTINGS, 0, 0, &[])
}

/// All events of an input in one piece, for a client's reader.
fn events(input: &[u8]) -> Result<Vec<Event>, Code> {
    let mut reader = Reader::new(false);
    let (mut at, mut all) = (0, vec![]);
    let input = [&settings()[..], input].concat();
    while let Some(event) = reader.next(&input, &mut at).map_err(|violation| violation.code)? {
        all.push(event);
    }
    assert_eq!(at, input.len());
    assert_eq!(all.remove(0), Event::Settings(Settings::default()));
    Ok(all)
}

#[test]
fn frames_that_cannot_be_end_the_connection_with_the_right_code() {
    let cases: Vec<(&str, Vec<u8>, Code)> = vec![
        ("data on stream 0", frame(kind::DATA, 0, 0, b"x"), Code::Protocol),
        ("headers on stream 0", frame(kind::HEADERS, 4, 0, b"x"), Code::Protocol),
        ("settings on a stream", frame(kind::SETTINGS, 0, 1, &[]), Code::Protocol),
        ("ping on a stream", frame(kind::PING, 0, 1, &[0; 8]), Code::Protocol),
        ("goaway on a stream", frame(kind::GOAWAY, 0, 3, &[0; 8]), Code::Protocol),
        ("a push", frame(kind::PUSH_PROMISE, 4, 1, &[0; 8]), Code::Protocol),
        ("a short ping", frame(kind::PING, 0, 0, &[0; 7]), Code::FrameSize),
        ("a short reset", frame(kind::RST_STREAM, 0, 1, &[0; 3]), Code::FrameSize),
        ("a long window update", frame(kind::WINDOW_UPDATE, 0, 1, &[1; 5]), Code::FrameSize),
        ("a window update of nothing", number_frame(kind::WINDOW_UPDATE, 1, 0).to_vec(), Code::Protocol),
        ("half a setting", frame(kind::SETTINGS, 0, 0, &[0; 5]), Code::FrameSize),
        ("an acknowledgement with content", frame(kind::SETTINGS, 1, 0, &[0; 6]), Code::FrameSize),
        ("a window of 2^31", frame(kind::SETTINGS, 0, 0, &[0, 4, 128, 0, 0, 0]), Code::FlowControl),
        ("a frame size of 1", frame(kind::SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 1]), Code::Protocol),
        ("a push setting of 2", frame(kind::SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2]), Code::Protocol),
        ("too many settings", frame(kind::SETTINGS, 0, 0, &[0; 600]), Code::FrameSize),
        ("a frame that is too large", frame_header(h2::MAX_FRAME + 1, kind::DATA, 0, 1).to_vec(), Code::FrameSize),
        ("padding of its whole frame", frame(kind::DATA, flag::PADDED, 1, &[4, 0, 0, 0]), Code::Protocol),
        ("padding without a length", frame(kind::DATA, flag::PADDED, 1, &[]), Code::FrameSize),
        ("headers that are all padding", frame(kind::HEADERS, flag::PADDED | 4, 1, &[9, 0]), Code::Protocol),
        ("headers with half a priority", frame(kind::HEADERS, flag::PRIORITY | 4, 1, &[0; 4]), Code::FrameSize),
        ("a continuation of nothing", frame(kind::CONTINUATION, 4, 1, b"x"), Code::Protocol),
        (
            "data within a header block",
            [frame(kind::HEADERS, 0, 1, b"x"), frame(kind::DATA, 0, 1, b"x")].concat(),
            Code::Protocol,
        ),
        (
            "another stream's continuation",
            [frame(kind::HEADERS, 0, 1, b"x"), frame(kind::CONTINUATION, 4, 3, b"x")].concat(),
            Code::Protocol,
        ),
        (
            "an endless header block",
            [frame(kind::HEADERS, 0, 1, b"x"), frame(kind::CONTINUATION, 0, 1, &[0; 9000]).repeat(8)].concat(),
            Code::EnhanceYourCalm,
        ),
        (
            "empty continuations",
            [frame(kind::HEADERS, 0, 1, b"x"), frame(kind::CONTINUATION, 0, 1, &[]).repeat(20)].concat(),
            Code::EnhanceYourCalm,
        ),
        ("a flood of pings", frame(kind::PING, 0, 0, &[0; 8]).repeat(3000), Code::EnhanceYourCalm),
        ("a flood of settings", frame(kind::SETTINGS, 0, 0, &[]).repeat(3000), Code::EnhanceYourCalm),
        ("a flood of acknowledgements", frame(kind::SETTINGS, 1, 0, &[]).repeat(3000), Code::EnhanceYourCalm),
        ("a flood of resets", frame(kind::RST_STREAM, 0, 1, &[0; 4]).repeat(9000), Code::EnhanceYourCalm),
        ("a flood of empty data", frame(kind::DATA, 0, 1, &[]).repeat(3000), Code::EnhanceYourCalm),
        ("a flood of priorities", frame(kind::PRIORITY, 0, 1, &[0; 5]).repeat(3000), Code::EnhanceYourCalm),
        ("a flood of the unknown", frame(77, 0, 1, &[0; 5]).repeat(3000), Code::EnhanceYourCalm),
    ];
    for (what, input, code) in cases {
        assert_eq!(events(&input), Err(code), "{what}");
    }
}

#[test]
fn a_connection_begins_with_the_preface_and_settings() {
    for bad in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[h2::PREFACE, &frame(kind::PING, 0, 0, &[0; 8])].concat(),
        &[h2::PREFACE, &frame(kind::SETTINGS, 1, 0, &[])].concat(),
    ] {
        let mut at = 0;
        assert!(Reader::new(true).next(bad, &mut at).is_err());
    }
}

#[test]
fn padding_and_priority_are_taken_off_and_counted() {
    let padded = frame(kind::DATA, flag::PADDED | flag::END_STREAM, 5, b"\x03abc\0\0\0");
    let data = Event::Data { stream: 5, bytes: 19..22, flow: 7, end: true };
    assert_eq!(events(&padded), Ok(vec![data]));
    let mut reader = Reader::new(false);
    let block = frame(kind::HEADERS, flag::PADDED | flag::PRIORITY, 1, b"\x02\0\0\0\0\x10begin\0\0");
    let input = [settings(), block, frame(kind::CONTINUATION, flag::END_HEADERS, 1, b"end")].concat();
    let mut at = 0;
    reader.next(&input, &mut at).unwrap();
    assert_eq!(reader.next(&input, &mut at), Ok(Some(Event::Headers { stream: 1, end: false })));
    assert_eq!(reader.take_block(), b"beginend");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// However a stream of frames is cut, the same comes out.
    #[test]
    fn cuts_do_not_matter(frames in prop::collection::vec(any_frame(), 1..20), cuts in prop::collection::vec(1usize..40, 1..400)) {
        let input = [settings(), frames.concat()].concat();
        prop_assert_eq!(digest(&input, &[input.len()]), digest(&input, &cuts));
    }

    #[test]
    fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..600), cuts in prop::collection::vec(1usize..40, 1..20), server: bool) {
        let mut reader = Reader::new(server);
        let preface = if server { h2::PREFACE } else { &[] };
        let input = [preface, &settings(), &noise].concat();
        feed_cut(&mut reader, &input, &cuts, |_, _, _| {});
    }
}

/// Stream, bytes, what counted for the windows, end.
type Data = Vec<(u32, Vec<u8>, u32, bool)>;

/// Data per stream and everything else in order, or the violation.
fn digest(input: &[u8], cuts: &[usize]) -> (Data, Vec<Event>, Option<Code>) {
    let mut reader = Reader::new(false);
    let (mut data, mut rest): (Data, Vec<Event>) = (vec![], vec![]);
    let code = feed_cut(&mut reader, input, cuts, |event, bytes, _| match event {
        Event::Data { stream, bytes: range, flow, end } => {
            match data.last_mut().filter(|last| last.0 == stream && !last.3) {
                Some(last) => {
                    last.1.extend_from_slice(&bytes[range]);
                    last.2 += flow;
                    last.3 = end;
                }
                None => data.push((stream, bytes[range].to_vec(), flow, end)),
            }
        }
        other => rest.push(other),
    });
    (data, rest, code)
}

fn feed_cut(
    reader: &mut Reader,
    input: &[u8],
    cuts: &[usize],
    mut each: impl FnMut(Event, &[u8], usize),
) -> Option<Code> {
    let mut rest = input;
    let mut cuts = cuts.iter().cycle();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
        let mut at = 0;
        loop {
            match reader.next(piece, &mut at) {
                Ok(Some(event)) => each(event, piece, at),
                Ok(None) => break,
                Err(violation) => return Some(violation.code),
            }
        }
        assert_eq!(at, piece.len());
        rest = after;
    }
    None
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop::collection::vec(any::<u8>(), 0..60);
    prop_oneof![
        (0u32..6, payload.clone(), any::<bool>()).prop_map(|(stream, payload, end)| frame(
            kind::DATA,
            u8::from(end),
            stream * 2 + 1,
            &payload
        )),
        (0u32..6, payload.clone(), 0u8..9).prop_map(|(stream, payload, padding)| {
            let padded = [&[padding][..], &payload, &vec![0; usize::from(padding)]].concat();
            frame(kind::DATA, flag::PADDED, stream * 2 + 1, &padded)
        }),
        (0u32..6, payload.clone()).prop_map(|(stream, payload)| frame(
            kind::HEADERS,
            flag::END_HEADERS,
            stream * 2 + 1,
            &payload
        )),
        (any::<u8>(), any::<u8>(), 0u32..4, payload).prop_map(|(kind, flags, stream, payload)| frame(
            kind % 12,
            flags & 0x2d,
            stream,
            &payload
        )),
    ]
}
