import fc from 'fast-check';
import t from 'tap';
import {
  type AddressRecord,
  type DnsQuery,
  decodeQuery,
  decodeReply,
  encodeError,
  encodeQuery,
  encodeReply,
  rcodeNumber,
} from '../../../src/lib/dns-codec.js';

t.test('a query survives the wire, letter case and EDNS size included', async (t) => {
  const query = decoded(bytesOf(encodeQuery(4711, 'Web.Shop.svc', 'AAAA', 1232)));
  t.match(query, {
    id: 4711,
    name: 'Web.Shop.svc',
    hostname: 'web.shop.svc',
    type: 'AAAA',
    class: 'IN',
    edns: true,
    maxUdpBytes: 1232,
  });
  t.equal(query.recursionDesired, true);
  t.equal(decoded(bytesOf(encodeQuery(1, 'web', 'A'))).maxUdpBytes, 512, 'no EDNS means 512 bytes');
  t.equal(decoded(bytesOf(encodeQuery(1, 'web', 'A', 60000))).maxUdpBytes, 4096, 'the size asked for is bounded');
});

t.test('a reply echoes the question and carries its records', async (t) => {
  const query = decoded(bytesOf(encodeQuery(7, 'WEB.shop', 'A')));
  const reply = encodeReply(query, { rcode: 'NOERROR', authoritative: true, records: addresses(2) }, 512);
  const read = decodeReply(reply);
  t.match(read, {
    ok: true,
    value: { id: 7, rcode: 0, truncated: false, authoritative: true, name: 'WEB.shop', type: 'A' },
  });
  t.same(read.ok && read.value.records, addresses(2));
  t.same(Buffer.from(reply.subarray(12, 12 + query.question.length)), Buffer.from(query.question));
});

t.test('a reply that does not fit is cut and says so', async (t) => {
  const query = decoded(bytesOf(encodeQuery(7, 'web.shop', 'A')));
  const reply = encodeReply(query, { rcode: 'NOERROR', authoritative: true, records: addresses(200) }, 512);
  t.ok(reply.length <= 512);
  const read = decodeReply(reply);
  t.ok(read.ok && read.value.truncated && read.value.records.length > 10);
  const whole = decodeReply(
    encodeReply(query, { rcode: 'NOERROR', authoritative: true, records: addresses(200) }, 65535),
  );
  t.ok(whole.ok && !whole.value.truncated && whole.value.records.length === 200);
});

t.test('a record that cannot be encoded is left out rather than thrown', async (t) => {
  const query = decoded(bytesOf(encodeQuery(7, 'web.shop', 'A')));
  const records: AddressRecord[] = [{ name: 'web.shop', type: 'A', ttl: 30, data: 'not an address' }];
  const read = decodeReply(encodeReply(query, { rcode: 'NOERROR', authoritative: true, records }, 512));
  t.match(read, { ok: true, value: { records: [] } });
});

t.test('tells what is answered with an error from what is not answered at all', async (t) => {
  const query = Buffer.from(bytesOf(encodeQuery(9, 'web', 'A')));
  const changed = (offset: number, value: number) => {
    const copy = Buffer.from(query);
    copy.writeUInt16BE(value, offset);
    return decodeQuery(copy);
  };
  t.match(changed(2, 0x8100), { ok: false, error: { id: undefined } }, 'a response');
  t.match(decodeQuery(query.subarray(0, 11)), { ok: false, error: { id: undefined } }, 'no header');
  t.match(changed(2, 0x2000), { ok: false, error: { id: 9, rcode: 'NOTIMP' } }, 'opcode UPDATE and such');
  t.match(changed(4, 0), { ok: false, error: { id: 9, rcode: 'FORMERR' } }, 'no question');
  t.match(changed(4, 2), { ok: false, error: { id: 9, rcode: 'FORMERR' } }, 'two questions');
  t.match(changed(6, 65535), { ok: false, error: { id: 9, rcode: 'FORMERR' } }, 'records by the thousand');
  t.match(
    decodeQuery(query.subarray(0, query.length - 1)),
    { ok: false, error: { id: 9, rcode: 'FORMERR' } },
    'cut short',
  );
  t.match(changed(12, 0xc00c), { ok: false, error: { id: 9, rcode: 'FORMERR' } }, 'a name that points at itself');
  t.equal(Buffer.from(encodeError(9, 'FORMERR')).readUInt16BE(2), 0x8000 | rcodeNumber('FORMERR'));
});

t.test('a label with bytes that no host name has is never looked up', async (t) => {
  for (const byte of [0x2e, 0x00, 0x20, 0x80, 0xff]) {
    const bytes = Buffer.from(bytesOf(encodeQuery(1, 'axb.shop', 'A')));
    bytes[14] = byte;
    t.equal(decoded(bytes).hostname, undefined, `byte ${byte}`);
  }
});

t.test('refuses to ask for a name with a label beyond 63 bytes', async (t) => {
  t.equal(encodeQuery(1, `${'x'.repeat(64)}.shop`, 'A').ok, false);
});

t.test('no bytes make it throw', async () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 600 }), (bytes) => {
      decodeQuery(bytes);
      decodeReply(bytes);
    }),
    { numRuns: 3000 },
  );
});

t.test('no damage to a message makes it throw, and what still decodes can be answered', async () => {
  const whole = bytesOf(encodeQuery(1, 'web.shop.svc.cluster.local', 'A', 1232));
  const damage = fc.array(fc.tuple(fc.nat(whole.length - 1), fc.nat(255)), { maxLength: 6 });
  fc.assert(
    fc.property(damage, fc.nat(whole.length), (edits, length) => {
      const bytes = Uint8Array.from(whole);
      for (const [at, value] of edits) bytes[at] = value;
      const query = decodeQuery(bytes.subarray(0, length));
      if (!query.ok) return true;
      const reply = encodeReply(
        query.value,
        { rcode: 'NOERROR', authoritative: true, records: addresses(40) },
        query.value.maxUdpBytes,
      );
      return reply.length <= query.value.maxUdpBytes && Buffer.from(reply).readUInt16BE(0) === query.value.id;
    }),
    { numRuns: 3000 },
  );
});

function bytesOf(result: ReturnType<typeof encodeQuery>): Uint8Array {
  if (!result.ok) throw new Error(result.error);
  return result.value;
}

function decoded(bytes: Uint8Array): DnsQuery {
  const query = decodeQuery(bytes);
  if (!query.ok) throw new Error(query.error.message);
  return query.value;
}

function addresses(count: number): AddressRecord[] {
  return Array.from({ length: count }, (_, i) => ({
    name: 'web.shop',
    type: 'A',
    ttl: 30,
    data: `10.0.${i >> 8}.${i & 255}`,
  }));
}
