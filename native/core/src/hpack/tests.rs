use super::*;
use proptest::prelude::*;

#[test]
fn single_fields_of_the_rfc() {
    // C.2.1 to C.2.4
    let mut decoder = Decoder::new(4096, 4096);
    assert_eq!(
        fields(&mut decoder, "400a637573746f6d2d6b65790d637573746f6d2d686561646572"),
        "custom-key: custom-header"
    );
    assert_eq!(decoder.table_size(), 55);
    let mut decoder = Decoder::new(4096, 4096);
    assert_eq!(fields(&mut decoder, "040c2f73616d706c652f70617468"), ":path: /sample/path");
    assert_eq!(fields(&mut decoder, "100870617373776f726406736563726574"), "password: secret");
    assert_eq!(fields(&mut decoder, "82"), ":method: GET");
    assert_eq!(decoder.table_size(), 0);
}

#[test]
fn requests_of_the_rfc() {
    // C.3 without and C.4 with Huffman coding
    let plain = [
        "828684410f7777772e6578616d706c652e636f6d",
        "828684be58086e6f2d6361636865",
        "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
    ];
    let coded = [
        "828684418cf1e3c2e5f23a6ba0ab90f4ff",
        "828684be5886a8eb10649cbf",
        "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
    ];
    let expected = [
        (":method: GET|:scheme: http|:path: /|:authority: www.example.com", 57),
        (":method: GET|:scheme: http|:path: /|:authority: www.example.com|cache-control: no-cache", 110),
        (":method: GET|:scheme: https|:path: /index.html|:authority: www.example.com|custom-key: custom-value", 164),
    ];
    for blocks in [plain, coded] {
        let mut decoder = Decoder::new(4096, 4096);
        for (block, (text, size)) in blocks.iter().zip(expected) {
            assert_eq!(fields(&mut decoder, block), text);
            assert_eq!(decoder.table_size(), size);
        }
    }
}

#[test]
fn responses_of_the_rfc_evict_entries() {
    // C.5 without and C.6 with Huffman coding, table of 256 bytes
    let plain = [
        "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d546e1768747470733a2f2f7777772e6578616d706c652e636f6d",
        "4803333037c1c0bf",
        "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31",
    ];
    let coded = [
        "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
        "4883640effc1c0bf",
        "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
    ];
    let expected = [
        (
            ":status: 302|cache-control: private|date: Mon, 21 Oct 2013 20:13:21 GMT|location: https://www.example.com",
            222,
        ),
        (
            ":status: 307|cache-control: private|date: Mon, 21 Oct 2013 20:13:21 GMT|location: https://www.example.com",
            222,
        ),
        (
            ":status: 200|cache-control: private|date: Mon, 21 Oct 2013 20:13:22 GMT|location: https://www.example.com\
             |content-encoding: gzip|set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
            215,
        ),
    ];
    for blocks in [plain, coded] {
        let mut decoder = Decoder::new(256, 4096);
        for (block, (text, size)) in blocks.iter().zip(expected) {
            assert_eq!(fields(&mut decoder, block), text);
            assert_eq!(decoder.table_size(), size);
        }
    }
}

#[test]
fn refuses_what_is_malformed() {
    for (block, error) in [
        ("80", Error::Index),
        ("be", Error::Index),
        ("ffffffffff0f", Error::Overflow),
        ("ff", Error::Truncated),
        ("40", Error::Truncated),
        ("0005616263", Error::Truncated),
        ("0081ff00", Error::Huffman),
        ("8220", Error::TableSize),
        ("3fe21f", Error::TableSize),
    ] {
        assert_eq!(Decoder::new(4096, 4096).decode(&bytes(block), |_, _| ()), Err(error), "{block}");
    }
}

#[test]
fn a_list_too_large_keeps_the_table_in_step() {
    let mut decoder = Decoder::new(4096, 50);
    let mut seen = 0;
    let block = bytes("82400a637573746f6d2d6b65790d637573746f6d2d686561646572");
    assert_eq!(decoder.decode(&block, |_, _| seen += 1), Err(Error::ListTooLarge));
    assert_eq!((seen, decoder.table_size()), (1, 55));
    let mut decoder = Decoder { max_list: 4096, ..decoder };
    assert_eq!(fields(&mut decoder, "be"), "custom-key: custom-header");
}

#[test]
fn a_smaller_table_is_announced_or_forgiven() {
    let insert = "400a637573746f6d2d6b65790d637573746f6d2d686561646572";
    let mut decoder = Decoder::new(4096, 4096);
    fields(&mut decoder, insert);
    decoder.set_max_table(0);
    assert_eq!(fields(&mut decoder, "2088"), ":status: 200");
    assert_eq!(decoder.decode(&bytes("be"), |_, _| ()), Err(Error::Index));
    assert_eq!(fields(&mut decoder, insert), "custom-key: custom-header");
    assert_eq!(decoder.table_size(), 0);
    assert_eq!(decoder.decode(&bytes("21"), |_, _| ()), Err(Error::TableSize));
}

#[test]
fn writes_what_the_static_table_has_by_index() {
    let mut out = Vec::new();
    encode_status(&mut out, 200);
    assert_eq!(out, [0x88]);
    out.clear();
    encode_status(&mut out, 503);
    assert_eq!(out, [0x08, 3, b'5', b'0', b'3']);
    out.clear();
    encode(&mut out, b":method", b"CONNECT");
    assert_eq!(out[0], 0x02);
}

proptest! {
    #[test]
    fn what_is_written_reads_back(list in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..200), prop::collection::vec(any::<u8>(), 0..200)), 0..8)) {
        let mut block = Vec::new();
        for (name, value) in &list {
            encode(&mut block, name, value);
        }
        let mut read = Vec::new();
        Decoder::new(0, usize::MAX).decode(&block, |name, value| read.push((name.to_vec(), value.to_vec()))).unwrap();
        prop_assert_eq!(read, list);
    }

    #[test]
    fn huffman_text_reads_back(text in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut out = Vec::new();
        prop_assert!(huffman::decode(&huffman::encode(&text), &mut out));
        prop_assert_eq!(out, text);
    }

    #[test]
    fn any_bytes_are_an_answer_and_the_table_stays_within_its_limit(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 1..5), max_table in 0usize..300) {
        let mut decoder = Decoder::new(max_table, 1000);
        for block in blocks {
            let _ = decoder.decode(&block, |_, _| ());
            prop_assert!(decoder.table_size() <= max_table);
            let counted: usize = decoder.table.entries.iter().map(|entry| entry.text.len() + ENTRY_OVERHEAD).sum();
            prop_assert_eq!(counted, decoder.table_size());
        }
    }
}

fn fields(decoder: &mut Decoder, block: &str) -> String {
    let mut fields = Vec::new();
    decoder
        .decode(&bytes(block), |name, value| {
            fields.push(format!("{}: {}", String::from_utf8_lossy(name), String::from_utf8_lossy(value)));
        })
        .unwrap();
    fields.join("|")
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}
