/**
 * `make demo`: the main job on a two-node mesh of real processes. Every line it prints was checked: on the wire with a
 * capture, in the access records, in the exit codes of ordinary programs. Exit code 0 only if all of it held.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Capture, choosesTls13, type Packet, shows } from '../support/capture.js';
import { until } from '../support/mesh.js';

const root = join(import.meta.dirname, '../../..');
const meltemi = join(root, 'bin/meltemi');
const shop = join(root, 'test/demo/shop');
const lab = 'demo';
const keep = process.argv.includes('--keep');
const started = Date.now();
const HBONE_PORT = 15008;

interface Status {
  readonly nodes: readonly { readonly name: string; readonly netns: string; readonly accessLog: string }[];
  readonly pods: readonly PodStatus[];
}

interface PodStatus {
  readonly name: string;
  readonly namespace: string;
  readonly addresses: readonly string[];
  readonly pids: readonly number[];
  readonly ready: boolean;
  readonly redirection: string;
}

let failure = false;
try {
  await demo();
} catch (error) {
  failure = true;
  console.error(`\n✗ ${error instanceof Error ? error.message : String(error)}`);
} finally {
  if (!keep) run('lab', 'down', '--name', lab);
}
const seconds = ((Date.now() - started) / 1000).toFixed(1);
console.log(failure ? `\nNot everything held (${seconds} s).` : `\nEvery step was verified (${seconds} s).`);
if (keep && !failure) console.log(whatToTry());
process.exitCode = failure ? 1 : 0;

async function demo(): Promise<void> {
  title('A shop of ordinary programs on two nodes');
  run('lab', 'down', '--name', lab);
  must('lab', 'up', '--name', lab, '--nodes', '2');
  must('lab', 'apply', '--name', lab, '-f', join(shop, 'shop.yaml'));
  const before = await settled(
    'every pod is ready',
    ({ pods }) => pods.length === 5 && pods.every(({ ready }) => ready),
  );
  const pidsBefore = pidsOf(before);
  held(`${before.pods.length} pods run on ${before.nodes.length} nodes`);

  title('Before the label: plaintext on the wire');
  await plaintextOnTheWire();

  title('kubectl-style label on the namespace: istio.io/dataplane-mode=ambient');
  must('lab', 'label', '--name', lab, 'namespace', 'shop', 'istio.io/dataplane-mode=ambient');
  await settled('the pods of shop are captured', ({ pods }) =>
    pods.filter(({ namespace }) => namespace === 'shop').every(({ redirection }) => redirection === 'enabled'),
  );
  held('the running pods are captured, no program was restarted');

  title('After the label: only TLS 1.3 on port 15008');
  await encryptedOnTheWire();
  await accessRecords();

  title('PeerAuthentication STRICT: who is not in the mesh stays outside');
  held(`a stranger gets ${curl('stranger.street').code} while PERMISSIVE`);
  must('lab', 'apply', '--name', lab, '-f', join(shop, 'strict.yaml'));
  await until('the stranger is refused', async () => curl('stranger.street').exitCode !== 0);
  held(
    `the stranger is refused (curl exit code ${curl('stranger.street').exitCode}), the shopper gets ${expectOk('shopper.shop')}`,
  );
  explains('stranger.street', 'istio_converted_static_strict|converted_peer_authentication');

  title('AuthorizationPolicy: one service account may not');
  held(`the intern gets ${expectOk('intern.shop')} before`);
  must('lab', 'apply', '--name', lab, '-f', join(shop, 'no-interns.yaml'));
  await until('the intern is refused', async () => curl('intern.shop').exitCode !== 0);
  held(
    `the intern is refused (curl exit code ${curl('intern.shop').exitCode}), the shopper gets ${expectOk('shopper.shop')}`,
  );
  explains('intern.shop', 'no-interns');

  title('Without the label: plaintext again, nothing restarted');
  must('lab', 'delete', '--name', lab, '-f', join(shop, 'no-interns.yaml'), '-f', join(shop, 'strict.yaml'));
  must('lab', 'label', '--name', lab, 'namespace', 'shop', 'istio.io/dataplane-mode-');
  const after = await settled('the pods of shop are released', ({ pods }) =>
    pods.every(({ redirection }) => redirection === ''),
  );
  await plaintextOnTheWire();
  if (pidsOf(after) !== pidsBefore) throw new Error(`programs were restarted: ${pidsBefore} became ${pidsOf(after)}`);
  held('the same processes as at the start');
}

async function plaintextOnTheWire(): Promise<void> {
  const packets = await watchWire(
    () => expectOk('shopper.shop'),
    (seen) => shows(seen, 'GET / HTTP/1.1') && shows(seen, 'HTTP/1.0 200 OK'),
  );
  if (packets.some(usesTunnel)) throw new Error('there is traffic on 15008 although nothing is captured');
  held('a capture between the nodes reads the request: GET / HTTP/1.1');
}

async function encryptedOnTheWire(): Promise<void> {
  const packets = await watchWire(
    () => {
      expectOk('shopper.shop');
      expectOrders();
    },
    (seen) => choosesTls13(seen) && seen.filter(({ payload }) => payload[0] === 0x17).length > 4,
  );
  const elsewhere = packets.filter((packet) => packet.payload.length > 0 && !usesTunnel(packet));
  if (elsewhere.length > 0)
    throw new Error(`payload outside port 15008: ${elsewhere.map(({ dstIp, dstPort }) => `${dstIp}:${dstPort}`)}`);
  for (const text of ['GET /', 'HTTP/1.0', '220 orders ready', 'two coffees']) {
    if (shows(packets, text)) throw new Error(`the capture reads ${JSON.stringify(text)} in clear`);
  }
  held(`a capture of ${packets.length} packets between the nodes shows TLS 1.3 on port 15008 and nothing else`);
  held('HTTP (curl → http.server) and raw TCP where the server speaks first (socat) work unmodified');
}

/** Runs `act` under a capture of what leaves and enters node-1 for the shopper. */
async function watchWire(act: () => void, complete: (seen: readonly Packet[]) => boolean): Promise<readonly Packet[]> {
  const { nodes, pods } = status();
  const shopper = pods.find(({ name }) => name === 'shopper');
  const servers = pods
    .filter(({ name }) => name === 'catalog' || name === 'orders')
    .flatMap(({ addresses }) => addresses);
  const filter = `tcp and (${shopper?.addresses.map((ip) => `host ${ip}`).join(' or ')}) and (${servers.map((ip) => `host ${ip}`).join(' or ')})`;
  const capture = await Capture.start(nodes.find(({ name }) => name === 'node-1')?.netns ?? '', filter);
  try {
    act();
    await capture.until(complete);
  } finally {
    await capture.stop();
  }
  return capture.packets;
}

async function accessRecords(): Promise<void> {
  const client = 'spiffe://cluster.local/ns/shop/sa/shopper';
  const server = 'spiffe://cluster.local/ns/shop/sa/catalog';
  for (const [node, direction] of [
    ['node-1', 'outbound'],
    ['node-2', 'inbound'],
  ]) {
    const find = (): Record<string, unknown> | undefined =>
      accessLog(node ?? '').find(
        (record) =>
          record.direction === direction && record['src.identity'] === client && record['dst.identity'] === server,
      );
    await until(`${node} has an ${direction} record with both identities`, async () => find() !== undefined);
    const record = find();
    held(
      `${node} ${direction}: ${record?.['src.identity']} → ${record?.['dst.identity']}, ${record?.bytes_recv} bytes received`,
    );
  }
}

function accessLog(node: string): Record<string, unknown>[] {
  const path = status().nodes.find(({ name }) => name === node)?.accessLog ?? '';
  if (!existsSync(path)) return [];
  const lines = readFileSync(path, 'utf8')
    .split('\n')
    .filter((line) => line !== '');
  return lines.map((line) => JSON.parse(line) as Record<string, unknown>);
}

function explains(pod: string, wanted: string): void {
  const { stdout, exitCode } = run('explain', '--lab', lab, pod, 'catalog.shop:80');
  if (exitCode !== 2 || !new RegExp(wanted).test(stdout)) {
    throw new Error(`explain ended with ${exitCode} and does not name ${wanted}:\n${stdout}`);
  }
  held(`meltemi explain ${pod} catalog.shop:80 says:`);
  console.log(stdout.trimEnd().replaceAll(/^/gm, '      '));
}

function curl(pod: string): { code: string; exitCode: number } {
  const [name = '', namespace = ''] = pod.split('.');
  const args = ['curl', '-sS', '-o', '/dev/null', '-m', '5', '-w', '%{http_code}', 'http://catalog.shop/'];
  const { stdout, exitCode } = run('lab', 'exec', '--name', lab, `${name}.${namespace}`, '--', ...args);
  return { code: `HTTP ${stdout.trim()}`, exitCode };
}

function expectOk(pod: string): string {
  const { code, exitCode } = curl(pod);
  if (exitCode !== 0 || code !== 'HTTP 200') throw new Error(`curl from ${pod} ended with ${exitCode}, ${code}`);
  return code;
}

function expectOrders(): void {
  const script = 'echo two coffees | socat -t 5 - TCP:orders.shop:9000';
  const { stdout, exitCode } = run('lab', 'exec', '--name', lab, 'shopper.shop', '--', 'sh', '-c', script);
  if (stdout !== '220 orders ready\ntwo coffees\n')
    throw new Error(`orders answered ${JSON.stringify(stdout)} (${exitCode})`);
}

async function settled(what: string, condition: (status: Status) => boolean): Promise<Status> {
  let last = status();
  await until(what, async () => {
    last = status();
    return condition(last);
  });
  return last;
}

function status(): Status {
  return JSON.parse(must('lab', 'status', '--name', lab, '--json')) as Status;
}

function pidsOf({ pods }: Status): string {
  return pods
    .map(({ name, pids }) => `${name}=${pids.join('+')}`)
    .sort()
    .join(' ');
}

function usesTunnel({ srcPort, dstPort }: Packet): boolean {
  return srcPort === HBONE_PORT || dstPort === HBONE_PORT;
}

function must(...args: string[]): string {
  const { stdout, stderr, exitCode } = run(...args);
  if (exitCode !== 0) throw new Error(`meltemi ${args.join(' ')} ended with ${exitCode}: ${stderr}${stdout}`);
  return stdout;
}

function run(...args: string[]): { stdout: string; stderr: string; exitCode: number } {
  const {
    stdout,
    stderr,
    status: exitCode,
  } = spawnSync(meltemi, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  return { stdout, stderr, exitCode: exitCode ?? 1 };
}

function title(text: string): void {
  console.log(`\n${text}`);
}

function held(text: string): void {
  console.log(`  ✓ ${text}`);
}

function whatToTry(): string {
  return `
The demo goes on running. Try:
  bin/meltemi lab status --name ${lab}
  bin/meltemi lab label --name ${lab} namespace shop istio.io/dataplane-mode=ambient
  bin/meltemi lab exec --name ${lab} shopper.shop -- curl -s http://catalog.shop/
  bin/meltemi explain --lab ${lab} shopper.shop catalog.shop:80
  bin/meltemi lab apply --name ${lab} -f test/demo/shop/no-interns.yaml
  bin/meltemi lab down --name ${lab}`;
}
