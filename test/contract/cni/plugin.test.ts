import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { CniHandler, type HandlerParts } from '../../../src/agent/cni/handler.js';
import { CniServer } from '../../../src/agent/cni/server.js';
import { systemClock } from '../../../src/lib/clock.js';
import { logger, setLogSink } from '../../../src/telemetry/log.js';
import { createRegistry } from '../../../src/telemetry/metrics.js';

/** The plugin and the agent's socket, which only know each other by what they say. */
const PLUGIN = join(import.meta.dirname, '../../../../native/target/meltemi-cni');
const PREVIOUS = '{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.7/24"}],"x": 1.0}';

setLogSink(() => undefined);

type Admission = HandlerParts['enrolment']['admission'];

function setUp(t: Test) {
  const home = mkdtempSync(join(tmpdir(), 'cni-'));
  t.teardown(() => rmSync(home, { recursive: true }));
  const socket = join(home, 'cni.sock');
  const metrics = createRegistry();
  const put: unknown[] = [];
  const listen = async (admission: Admission): Promise<CniServer> => {
    const handler = new CniHandler({
      sandboxes: { put: async (sandbox) => void put.push(sandbox), remove: (uid) => put.push(uid) },
      enrolment: { admission, settled: true },
      hostRoot: '',
      clock: systemClock,
      log: logger('cni'),
      metrics,
    });
    const server = new CniServer(socket, handler);
    t.teardown(() => server.close());
    await server.listen();
    return server;
  };
  /** Runs the plugin as a container runtime does. */
  const run = async (verb: string, name = 'web', more: Record<string, unknown> = {}) => {
    const args = `IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=${name};K8S_POD_UID=u-${name}`;
    const child: ChildProcess = spawn(PLUGIN, {
      env: { CNI_COMMAND: verb, CNI_CONTAINERID: `c-${name}`, CNI_NETNS: `/run/netns/${name}`, CNI_ARGS: args },
      stdio: ['pipe', 'pipe', 'ignore'],
    });
    const entry = { cniVersion: '1.0.0', name: 'n', type: 'meltemi-cni', socket, awaySeconds: 10, answerSeconds: 10 };
    const config = JSON.stringify({ ...entry, ...more }).replace(/}$/, `,"prevResult":${PREVIOUS}}`);
    child.stdin?.end(config);
    const exited = new Promise<number | null>((resolve) => child.once('close', resolve));
    const out = child.stdout === null ? '' : await text(child.stdout);
    return { code: await exited, out };
  };
  return { socket, metrics, put, listen, run, home };
}

t.before(() => {
  if (!existsSync(PLUGIN)) throw new Error(`${PLUGIN} is missing: run make build`);
});

t.test('a pod is told, enrolled, checked and forgotten', async (t) => {
  const { listen, run, put, socket } = setUp(t);
  await listen(async () => ({ captured: true }));
  t.equal(statSync(socket).mode & 0o777, 0o600);
  t.same(await run('ADD'), { code: 0, out: `${PREVIOUS}\n` });
  const sandbox = { uid: 'u-web', namespace: 'shop', name: 'web', netns: '/run/netns/web', ips: ['10.0.0.7'] };
  t.same(put, [sandbox]);
  t.same(await run('CHECK'), { code: 0, out: '' });
  t.same(await run('STATUS', 'web', { statusNeedsAgent: true }), { code: 0, out: '' });
  t.same(await run('DEL'), { code: 0, out: '' });
  t.same(put, [sandbox, 'u-web']);
});

t.test('a pod that cannot be enrolled in time fails with what the agent knows', async (t) => {
  const { listen, run } = setUp(t);
  await listen(
    (_namespace, _name, _uid, signal) =>
      new Promise((_resolve, reject) => {
        signal.addEventListener('abort', () => reject(new Error('redirection: no nft')), { once: true });
      }),
  );
  const { code, out } = await run('ADD', 'web', { answerSeconds: 1, awaySeconds: 0 });
  t.equal(code, 1);
  t.match(JSON.parse(out), { code: 100, msg: 'pod shop/web waits for the mesh: redirection: no nft' });
});

t.test('two hundred pods at once are all told their own answer', async (t) => {
  const { listen, run, metrics } = setUp(t);
  await listen(async (_namespace, name) => {
    await delay(Number(name) % 7);
    if (Number(name) % 10 === 0) throw new Error(`no ${name}`);
    return { captured: Number(name) % 2 === 0 };
  });
  const names = Array.from({ length: 200 }, (_, i) => String(i));
  const results = await Promise.all(names.map((name) => run('ADD', name)));
  const odd = results.filter(({ code, out }, i) =>
    i % 10 === 0 ? !out.includes(`"pod shop/${i} waits for the mesh: no ${i}"`) : code !== 0,
  );
  t.same(odd, []);
  t.match(await metrics.render(), /^meltemi_cni_requests_total\{verb="add",result="not-captured"\} 100$/m);
  t.match(await metrics.render(), /^meltemi_cni_requests_total\{verb="add",result="failed"\} 20$/m);
});

t.test('a successor takes the socket over and no pod notices, nor one that waited for the former agent', async (t) => {
  const { listen, run, home } = setUp(t);
  const never: Admission = (_namespace, _name, _uid, signal) =>
    new Promise((_resolve, reject) => {
      signal.addEventListener('abort', () => reject(new Error('never')), { once: true });
    });
  let agent = await listen(never);
  const waiting = run('ADD', 'first');
  let done = false;
  const codes: (number | null)[] = [];
  const load = [1, 2].map(async (worker) => {
    for (let i = 0; !done; i += 1) codes.push((await run('ADD', `p${worker}-${i}`)).code);
  });
  while (codes.length < 20) {
    const former = agent;
    agent = await listen(async () => ({ captured: true }));
    former.close();
    await delay(20);
  }
  done = true;
  await Promise.all(load);
  t.equal((await waiting).code, 0);
  t.same([...new Set(codes)], [0]);
  t.same(readdirSync(home), ['cni.sock'], 'no socket is left behind under another name');
});

t.test('an agent that was replaced serves again when its successor has died', async (t) => {
  const { listen, run } = setUp(t);
  const former = await listen(async () => ({ captured: true }));
  const successor = await listen(async () => ({ captured: true }));
  former.close();
  successor.close();
  const waiting = run('ADD');
  await former.listen();
  t.equal((await waiting).code, 0);
  t.equal((await run('ADD', 'other')).code, 0);
});

t.test('whoever is not the plugin is told so, and reads and writes are bounded', async (t) => {
  const { listen, socket, metrics } = setUp(t);
  await listen(async () => ({ captured: true }));
  const say = (what: string) =>
    new Promise<string>((resolve) => {
      const connection = connect(socket, () => connection.write(what));
      let said = '';
      connection.on('data', (chunk) => {
        said += chunk;
      });
      connection.on('error', () => undefined);
      connection.once('close', () => resolve(said));
    });
  t.match(await say('GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n'), /^HTTP\/1.1 400 .*POST \/v1\/add/s);
  const post = (body: string) => `POST /v1/add HTTP/1.1\r\nHost: a\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
  t.match(await say(post('[]')), /^HTTP\/1.1 400 .*no object/s);
  t.match(await say(post('x'.repeat(70_000))), /^HTTP\/1.1 400 .*larger than 65536/s);
  t.match(await say('\x00\x01garbage\r\n\r\n'), /^HTTP\/1.1 400/);
  t.match(await metrics.render(), /^meltemi_cni_requests_total\{verb="unknown",result="bad-request"\} 3$/m);
});
