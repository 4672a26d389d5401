/** What ill-meaning peers send: the engine refuses it, goes on, and does not grow. */
import { readFileSync } from 'node:fs';
import root, { type Test, test } from 'tap';
import { type IssuedCertificate, TestCa } from '../support/certificates.js';
import { ACK, connectBlock, END_HEADERS, Frame, frame, literal, PADDED, PREFACE } from '../support/frames.js';
import { HbonePeer, type Identity } from '../support/hbone-client.js';
import { labCa } from '../support/lab-ca.js';
import { nodeOf, placeOf, podOf } from '../support/mesh.js';
import { identityOf, PORT, SERVERS_NAME, serverId, startTown, type Town, theServers } from './town.js';

// Each test has a limit of its own, and the runner has one for the file.
root.setTimeout(0);

let town: Town;
let ca: TestCa;
let peer: HbonePeer;
let pids: string;
const HBONE = 15008;

test('a town comes up, with a foreign peer in it that has a certificate', async () => {
  town = await startTown('hostile');
  ca = labCa(town.mesh);
  peer = new HbonePeer('peer', placeOf(podOf(town.status, 'stranger.street')));
  town.mesh.onClose(() => peer.close());
  pids = await agentPids();
});

test('garbage on every port of the agent is refused, by address of the pod and from inside of it', async (t) => {
  const server = town.at('server.app').host;
  const own = town.at('caller.app').host;
  const attacks = [15001, 15006, HBONE, 15053, 15000, 15020, 15021].flatMap((port) => [
    { who: town.stranger, host: server, port },
    { who: town.caller, host: server, port },
    { who: town.caller, host: own, port },
    { who: town.caller, host: town.at('caller.app', 6).host, port },
    { who: town.caller, host: '127.0.0.1', port },
    { who: town.caller, host: '::1', port },
  ]);
  await Promise.all(
    attacks.flatMap(({ who, host, port }) =>
      GARBAGE.map(async ({ name, hex }) => {
        const got = await who.hostile({ host, port, hex, finish: true, timeout: 15 });
        const said = Buffer.from(got.received ?? '', 'hex');
        const what = `${name} from ${who.name} to ${host}:${port}: ${got.how}, ${said.length} bytes`;
        t.not(got.how, 'timeout', what);
        t.ok(said.length < 64, `says next to nothing to ${what}`);
      }),
    ),
  );
  await stillWell(t);
});

test('TLS that is not that of the mesh does not get through', async (t) => {
  using foreign = new TestCa();
  const other = foreign.issue({ uris: [identityOf('stranger', 'street')] });
  const mine = ca.issue({ uris: [identityOf('stranger', 'street')] });
  const request = Buffer.from(PREFACE, 'hex').toString('hex') + frame(Frame.settings, 0, 0);
  for (const [name, tls] of [
    ['no certificate', { alpn: ['h2'] }],
    ['a certificate of another authority', { alpn: ['h2'], cert: other.cert, key: other.key }],
    ['TLS 1.2', { alpn: ['h2'], cert: mine.cert, key: mine.key, max12: true }],
    ['a wrong ALPN', { alpn: ['http/1.1'], cert: mine.cert, key: mine.key }],
  ] as const) {
    const got = await town.stranger.hostile({ host: town.at('server.app').host, port: HBONE, hex: request, tls });
    t.match(got.how, /^tls: |reset|eof/, `${name}: ${got.how}`);
    t.equal(got.received ?? '', '', name);
  }
  await stillWell(t);
});

test('a certificate is believed only while it is valid, and for one SPIFFE id of the trust domain', async (t) => {
  const day = 86_400_000;
  const good = identityOf('stranger', 'street');
  const wishes: [string, string[], Date?, Date?][] = [
    ['expired', [good], new Date(Date.now() - 2 * day), new Date(Date.now() - day)],
    ['not valid yet', [good], new Date(Date.now() + day), new Date(Date.now() + 2 * day)],
    ['of another trust domain', [identityOf('stranger', 'street', 'evil.test')]],
    ['without a SPIFFE id', ['https://server.app/']],
    ['with two ids', [good, identityOf('caller')]],
    ['with a malformed id', ['spiffe://cluster.local/ns/street/sa/a/b']],
  ];
  for (const [name, uris, notBefore, notAfter] of wishes) {
    const leaf = ca.issue({ uris, ...(notBefore && { notBefore }), ...(notAfter && { notAfter }) });
    const got = await connectAs(leaf, town.at('server.app').host, `${town.at('server.app').host}:${PORT}`);
    t.equal(got.outcome, 'refused', `${name}: ${got.how} ${got.status}`);
  }
  const leaf = ca.issue({ uris: [good] });
  const got = await connectAs(leaf, town.at('server.app').host, `${town.at('server.app').host}:${PORT}`);
  t.match(got, { outcome: 'connected', status: 200, received: /"server": "server"/ }, 'the same, well made, is let in');
});

test('a CONNECT must name this pod, or a Service it is part of, and no port of the agent', async (t) => {
  const leaf = ca.issue({ uris: [identityOf('stranger', 'street')] });
  const server = town.at('server.app').host;
  const cases: [string, string, number | 'refused'][] = [
    ['its own address', `${server}:${PORT}`, 200],
    ['a Service it is part of', `${SERVERS_NAME}:80`, 200],
    ['a port of it that leads to a named one', `${SERVERS_NAME}:82`, 200],
    ['another pod of the mesh', `${town.at('second.app').host}:${PORT}`, 400],
    ['a pod outside the mesh', `${town.at('bare.street').host}:${PORT}`, 400],
    ['loopback', `127.0.0.1:${PORT}`, 400],
    ['a Service of others', `kubernetes.default.svc.cluster.local:80`, 400],
    ['a port the Service lacks', `${SERVERS_NAME}:81`, 400],
    ['outbound capture', `${server}:15001`, 400],
    ['inbound capture', `${server}:15006`, 400],
    ['the tunnel itself', `${server}:15008`, 400],
    ['no port', server, 400],
    ['port 0', `${server}:0`, 400],
    ['a port too large', `${server}:65537`, 400],
    ['nothing', '', 400],
    ['a port where nobody listens', `${server}:9`, 503],
  ];
  for (const [name, authority, status] of cases) {
    const got = await connectAs(leaf, server, authority);
    // A header block that is no request at all may also end the stream or the connection.
    const answered = got.outcome === 'refused' && authority === '' ? 400 : (got.status ?? got.how);
    t.equal(answered, status, `${name} (${authority})`);
  }
  const get = await peer.connect({
    address: server,
    port: HBONE,
    identity: identity(leaf),
    method: 'GET',
    authority: `${server}:${PORT}`,
    headers: { ':scheme': 'https', ':path': '/' },
  });
  t.equal(get.status, 400, 'GET');
  await stillWell(t);
});

test('frames that are none are answered with an end, and never with memory', { timeout: 120_000 }, async (t) => {
  const leaf = identity(ca.issue({ uris: [identityOf('stranger', 'street')] }));
  const address = town.at('server.app').host;
  const before = memoryOf('node-2');
  for (const { name, frames, mayStay } of malformed(`${address}:${PORT}`)) {
    const got = await peer.raw({ address, port: HBONE, identity: leaf, frames, timeoutMs: mayStay ? 500 : 8000 });
    if (!mayStay) t.not(got.how, 'open', `${name}: ${got.how}`);
    else t.pass(`${name}: ${got.how}`);
  }
  await stillWell(t);
  const grown = memoryOf('node-2') - before;
  t.ok(grown < 40_000_000, `the agent grew by ${Math.round(grown / 1e6)} MB`);
});

test('the town goes', async (t) => {
  t.equal(await agentPids(), pids, 'the same agents as at the start');
  ca[Symbol.dispose]();
  await town[Symbol.asyncDispose]();
});

function connectAs(leaf: IssuedCertificate, address: string, authority: string): ReturnType<HbonePeer['connect']> {
  return peer.connect({ address, port: HBONE, identity: identity(leaf), authority, expect: 20 });
}

function identity(leaf: IssuedCertificate): Identity {
  return { ...leaf, ca: ca.root, expect: serverId };
}

async function stillWell(t: Test): Promise<void> {
  t.match(await town.caller.churn({ ...theServers, count: 20 }), { ok: 20 }, 'the mesh goes on working');
  t.equal(await agentPids(), pids, 'no agent was restarted');
}

async function agentPids(): Promise<string> {
  return (await town.mesh.status()).nodes.map(({ agentPid }) => agentPid).join(' ');
}

function memoryOf(node: string): number {
  const status = readFileSync(`/proc/${nodeOf(town.status, node).agentPid}/status`, 'utf8');
  return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1]) * 1000;
}

const GARBAGE: readonly { readonly name: string; readonly hex: string }[] = [
  { name: 'nothing', hex: '' },
  { name: 'one byte', hex: '16' },
  { name: 'zeros', hex: '00'.repeat(5000) },
  { name: 'an HTTP request', hex: Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n').toString('hex') },
  { name: 'a preface without TLS', hex: PREFACE + frame(Frame.settings, 0, 0) },
  { name: 'half a ClientHello', hex: `160301020001000${'1'.padEnd(201, '0')}` },
  { name: 'a record longer than any', hex: `160303ffff${'41'.repeat(40_000)}` },
  { name: 'a ClientHello made of 0xff', hex: `16030100fa010000f6${'ff'.repeat(246)}` },
];

interface Malformed {
  readonly name: string;
  readonly frames: readonly string[];
  /** Legal, or of the kind a peer may ignore: the connection need not end. */
  readonly mayStay?: boolean;
}

function malformed(authority: string): Malformed[] {
  const start = PREFACE + frame(Frame.settings, 0, 0) + frame(Frame.settings, ACK, 0);
  const block = connectBlock(authority);
  const open = start + frame(Frame.headers, END_HEADERS, 1, block);
  const streams = Array.from({ length: 5000 }, (_, i) => 2 * i + 1);
  return [
    { name: 'no preface', frames: ['00'.repeat(64)] },
    { name: 'HTTP/1 under TLS', frames: [Buffer.from('GET / HTTP/1.1\r\n\r\n'.repeat(3)).toString('hex')] },
    { name: 'preface, then no SETTINGS', frames: [PREFACE + frame(Frame.ping, 0, 0, '00'.repeat(8))] },
    { name: 'a frame of 16 MB', frames: [start + frame(Frame.data, 0, 1, '00'.repeat(100), 0xffffff)] },
    { name: 'DATA on stream 0', frames: [start + frame(Frame.data, 0, 0, '00')] },
    { name: 'DATA on a stream that never was', frames: [start + frame(Frame.data, 0, 7, '00')], mayStay: true },
    { name: 'HEADERS on stream 0', frames: [start + frame(Frame.headers, END_HEADERS, 0, block)] },
    { name: 'HEADERS on an even stream', frames: [start + frame(Frame.headers, END_HEADERS, 2, block)] },
    {
      name: 'a stream number that goes back',
      frames: [start + frame(Frame.headers, END_HEADERS, 5, block) + frame(Frame.headers, END_HEADERS, 3, block)],
    },
    { name: 'CONTINUATION out of the blue', frames: [start + frame(Frame.continuation, END_HEADERS, 1, block)] },
    {
      name: 'something between HEADERS and CONTINUATION',
      frames: [start + frame(Frame.headers, 0, 1, block) + frame(Frame.ping, 0, 0, '00'.repeat(8))],
    },
    {
      name: 'CONTINUATION without end',
      frames: [
        start + frame(Frame.headers, 0, 1, block),
        ...Array.from({ length: 200 }, () =>
          frame(Frame.continuation, 0, 1, literal('x', 'y'.repeat(100)).repeat(100)),
        ),
      ],
    },
    {
      name: 'empty CONTINUATIONs without end',
      frames: [start + frame(Frame.headers, 0, 1, block), frame(Frame.continuation, 0, 1).repeat(20_000)],
    },
    { name: 'an HPACK index that is not there', frames: [start + frame(Frame.headers, END_HEADERS, 1, 'ff8001')] },
    { name: 'an HPACK integer without end', frames: [start + frame(Frame.headers, END_HEADERS, 1, 'ff'.repeat(40))] },
    { name: 'a dynamic table of 4 GB', frames: [start + frame(Frame.headers, END_HEADERS, 1, '3fe1ffffff0f')] },
    { name: 'bad Huffman code', frames: [start + frame(Frame.headers, END_HEADERS, 1, '0084ffffffff84ffffffff')] },
    { name: 'more padding than frame', frames: [start + frame(Frame.headers, END_HEADERS | PADDED, 1, `ff${block}`)] },
    { name: 'SETTINGS of 5 bytes', frames: [PREFACE + frame(Frame.settings, 0, 0, '0000000000')] },
    { name: 'SETTINGS on a stream', frames: [start + frame(Frame.settings, 0, 1)] },
    { name: 'an initial window beyond 2^31', frames: [start + frame(Frame.settings, 0, 0, '0004ffffffff')] },
    { name: 'a maximal frame size of 0', frames: [start + frame(Frame.settings, 0, 0, '000500000000')] },
    { name: 'a PING of 7 bytes', frames: [start + frame(Frame.ping, 0, 0, '00'.repeat(7))] },
    { name: 'WINDOW_UPDATE of 0', frames: [start + frame(Frame.windowUpdate, 0, 0, '00000000')] },
    {
      name: 'a window beyond 2^31',
      frames: [start + frame(Frame.windowUpdate, 0, 0, '7fffffff') + frame(Frame.windowUpdate, 0, 0, '7fffffff')],
    },
    { name: 'RST_STREAM of an idle stream', frames: [start + frame(Frame.rstStream, 0, 9, '00000008')] },
    { name: 'PUSH_PROMISE', frames: [start + frame(Frame.pushPromise, END_HEADERS, 1, `00000002${block}`)] },
    { name: 'an unknown frame type', frames: [start + frame(0xee, 0, 0, '00'.repeat(100))], mayStay: true },
    { name: 'a flood of SETTINGS', frames: [start, frame(Frame.settings, 0, 0, '000300000064').repeat(20_000)] },
    { name: 'a flood of PINGs', frames: [start, frame(Frame.ping, 0, 0, '00'.repeat(8)).repeat(20_000)] },
    { name: 'a flood of empty DATA', frames: [open, frame(Frame.data, 0, 1).repeat(20_000)] },
    { name: 'a flood of PRIORITY', frames: [start, frame(Frame.priority, 0, 3, '0000000000').repeat(20_000)] },
    {
      name: 'streams opened and reset at once',
      frames: [
        start,
        streams
          .map((id) => frame(Frame.headers, END_HEADERS, id, block) + frame(Frame.rstStream, 0, id, '00000008'))
          .join(''),
      ],
    },
    {
      name: 'more streams than allowed',
      frames: [start, streams.map((id) => frame(Frame.headers, END_HEADERS, id, block)).join('')],
      mayStay: true,
    },
    {
      name: 'more DATA than the window allows',
      frames: [open, ...Array.from({ length: 2000 }, () => frame(Frame.data, 0, 1, '00'.repeat(16_000)))],
      mayStay: true,
    },
  ];
}
