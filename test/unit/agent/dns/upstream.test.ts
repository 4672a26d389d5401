import t from 'tap';
import { askUpstream } from '../../../../src/agent/dns/upstream.js';
import { type Clock, systemClock } from '../../../../src/lib/clock.js';
import { type DnsQuery, decodeQuery, decodeReply, encodeQuery, encodeReply } from '../../../../src/lib/dns-codec.js';
import { addressReply, startNameserver } from '../../../support/dns-client.js';
import { openSockets } from '../../../support/host-sockets.js';

t.test('passes a query on under an id of its own and gives the reply the id of the asker', async (t) => {
  const ids: number[] = [];
  const server = await nameserver(t, (query) => {
    ids.push(query.id);
    return addressReply(query, '192.0.2.1');
  });
  for (let i = 0; i < 8; i++) {
    const reply = await ask('example.com', [server]);
    t.match(reply, { id: 77, records: [{ data: '192.0.2.1' }] });
  }
  t.ok(new Set(ids).size > 4, 'ids are random');
});

t.test('a reply with another id or to another question does not count', async (t) => {
  const server = await nameserver(t, (query) => addressReply({ ...query, id: query.id ^ 1 }, '192.0.2.66'));
  const other = await nameserver(t, (query) =>
    addressReply({ ...query, question: Uint8Array.from(query.question, (b) => b ^ 1) }, '192.0.2.66'),
  );
  const honest = await nameserver(t, (query) => addressReply(query, '192.0.2.1'));
  t.match(await ask('example.com', [server, other, honest]), { records: [{ data: '192.0.2.1' }] });
});

t.test('a server that refuses or fails gives way to the next; the last refusal is better than silence', async (t) => {
  const failing = await nameserver(t, (query) => refusal(query, 'SERVFAIL'));
  const refusing = await nameserver(t, (query) => refusal(query, 'REFUSED'));
  const honest = await nameserver(t, (query) => addressReply(query, '192.0.2.1'));
  t.match(await ask('example.com', [failing, refusing, honest]), { rcode: 0, records: [{ data: '192.0.2.1' }] });
  t.match(await ask('example.com', [failing, refusing]), { rcode: 2 });
});

t.test('a port where nobody listens is known at once', async (t) => {
  const gone = await startNameserver(() => undefined);
  gone.close();
  const honest = await nameserver(t, (query) => addressReply(query, '192.0.2.1'));
  const started = Date.now();
  t.match(await ask('example.com', [{ ip: '127.0.0.1', port: gone.port }, honest]), {
    records: [{ data: '192.0.2.1' }],
  });
  t.ok(Date.now() - started < 1000);
});

t.test(
  'a truncated reply is fetched again over TCP for an asker on TCP, and given as it is to one on UDP',
  async (t) => {
    const server = await nameserver(t, (query, protocol) => {
      const records = Array.from({ length: 60 }, (_, i) => ({
        name: query.name,
        type: 'A' as const,
        ttl: 5,
        data: `192.0.2.${i}`,
      }));
      return encodeReply(query, { rcode: 'NOERROR', authoritative: false, records }, protocol === 'udp' ? 512 : 65535);
    });
    t.match(await ask('many.example.com', [server], 'udp'), { truncated: true });
    t.match(await ask('many.example.com', [server], 'tcp'), { truncated: false, records: { length: 60 } });
  },
);

t.test('a pod without nameservers gets no reply', async (t) => {
  t.equal(await ask('example.com', []), undefined);
});

/** Waits a twentieth of what is asked for: on loopback that is still long. */
const hasty: Clock = { now: systemClock.now, schedule: (ms, callback) => systemClock.schedule(ms / 20, callback) };

type Server = { ip: string; port: number };

async function nameserver(
  t: { teardown(run: () => void): void },
  reply: Parameters<typeof startNameserver>[0],
): Promise<Server> {
  const server = await startNameserver(reply);
  t.teardown(() => server.close());
  return { ip: '127.0.0.1', port: server.port };
}

async function ask(name: string, nameservers: Server[], protocol: 'udp' | 'tcp' = 'udp') {
  const bytes = encodeQuery(77, name, 'A');
  const query = bytes.ok ? decodeQuery(bytes.value) : bytes;
  if (!bytes.ok || !query.ok) throw new Error('no query');
  const deps = { sockets: openSockets(), clock: hasty, mark: 0 };
  const reply = await askUpstream(bytes.value, query.value, protocol, { netns: '', nameservers }, deps);
  const read = reply === undefined ? undefined : decodeReply(reply);
  return read?.ok ? read.value : undefined;
}

function refusal(query: DnsQuery, rcode: 'SERVFAIL' | 'REFUSED') {
  return encodeReply(query, { rcode, authoritative: false, records: [] }, 512);
}
