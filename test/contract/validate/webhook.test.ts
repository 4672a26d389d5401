import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { loadChart } from '../../../src/cli/chart/chart.js';
import { keepWebhookConfiguration } from '../../../src/control/validate/webhook-configuration.js';
import { ApiError, type ApiObject, type Resource } from '../../../src/kube/api.js';
import { RESOURCES } from '../../../src/kube/resources.js';
import { systemClock } from '../../../src/lib/clock.js';
import { parseYaml, readYamlDocuments } from '../../../src/lib/yaml.js';
import { formatParseError, parseObject } from '../../../src/model/kubernetes/object.js';
import { logger } from '../../../src/telemetry/log.js';
import { createRegistry } from '../../../src/telemetry/metrics.js';
import { artefacts } from '../../cluster/harness/artefacts.js';
import { startApiServer } from '../../support/api-server.js';
import { define } from '../../support/definitions.js';
import { derivedMesh } from '../../support/derived-mesh.js';
import { until } from '../../support/mesh.js';
import { startWebhook } from '../../support/webhook.js';

const facts = derivedMesh(documents('warned')).facts;
/** The webhook before a real API server, with Istio's own definitions and the configuration of the chart. */
const { kubernetes } = await artefacts();
t.setTimeout(180_000);
const server = await startApiServer();
const api = server.api();
const webhook = await startWebhook({ facts: () => facts });
const NAME = 'meltemi-validator-istio-system';
t.teardown(async () => {
  webhook[Symbol.dispose]();
  api.close();
  await server.close();
});

const unread = (group: string, kind: string): Resource => ({
  group,
  version: 'v1',
  kind,
  plural: `${kind.toLowerCase()}s`,
  namespaced: true,
});
const UNREAD = [
  unread('networking.istio.io', 'VirtualService'),
  unread('networking.istio.io', 'DestinationRule'),
  unread('networking.istio.io', 'Gateway'),
  unread('networking.istio.io', 'Sidecar'),
  unread('security.istio.io', 'RequestAuthentication'),
];
await define(api, UNREAD);
for (const name of ['istio-system', 'shop', 'bare', 'elsewhere']) {
  const labels = name === 'elsewhere' ? { 'istio.io/rev': 'canary' } : {};
  await api.create(RESOURCES.Namespace, { metadata: { name, labels } });
}
await api.create(RESOURCES.ValidatingWebhookConfiguration, configuration());
const roots = { pem: '', listener: () => {} };
const ended = new AbortController();
t.teardown(() => ended.abort());
const reads = { get: 0 };
void keepWebhookConfiguration(
  {
    api: {
      get: (...parameters) => {
        reads.get++;
        return api.get(...parameters);
      },
      create: (...parameters) => api.create(...parameters),
      replace: (...parameters) => api.replace(...parameters),
    },
    name: NAME,
    namespace: 'istio-system',
    failurePolicy: 'Fail',
    roots: () => roots.pem,
    subscribe: (listener) => {
      roots.listener = listener;
      return () => {};
    },
    clock: systemClock,
    log: logger('webhook'),
    metrics: createRegistry(),
  },
  ended.signal,
);

t.test('while the bundle is wrong, everything is let in and nothing waits for the webhook', async (t) => {
  await until('the leader looked', async () => reads.get > 0);
  await t.resolves(api.create(RESOURCES.PeerAuthentication, bad('early')));
  t.strictSame(await policies(), { judging: ['Ignore'], others: ['Ignore'] });
});

t.test('with the bundle in place and a probe that came through, it becomes binding', async (t) => {
  roots.pem = webhook.root;
  roots.listener();
  await until('the policy is Fail', async () => (await policies()).judging.join() === 'Fail');
  t.strictSame(await policies(), { judging: ['Fail'], others: ['Ignore'] }, 'of those that refuse, and of no other');
  const { items } = await api.list(RESOURCES.ConfigMap, { namespace: 'istio-system' });
  t.same(
    items.filter(({ metadata }) => metadata.name.includes('probe')),
    [],
    'no probe is left',
  );
});

t.test('objects are refused exactly as the parser refuses them, in words that kubectl shows', async (t) => {
  const objects = documents('refused');
  const { stderr } = await kubectl(['create', '--dry-run=server', '--validate=false', '-f', file('refused')]);
  const refusals = refusalsOf(stderr);
  let byWebhook = 0;
  for (const object of objects) {
    const parsed = parseObject(object);
    if (parsed.ok) return t.fail(`${object.metadata.name} is no bad object`);
    const { name } = object.metadata;
    const ids = [`${object.kind} shop/${name}:`, `${object.kind} "${name}"`, `"${name}"`];
    const said = ids.map((id) => refusals.find((text) => text.includes(id))).find((text) => text !== undefined) ?? '';
    if (said.includes('admission webhook')) {
      byWebhook++;
      const where = 'admission webhook "default.validation.meltemi.io" denied the request: ';
      const message = said.slice(said.indexOf(where) + where.length).trimEnd();
      // The API server has taken out what no definition knows.
      if (name === 'source-misspelled') {
        t.match(message, /source is empty: a source must say/);
        continue;
      }
      const { problems } = parsed.error;
      const whole =
        problems.length === 1
          ? formatParseError(parsed.error)
          : `${parsed.error.object}:\n${problems.map((each) => `- ${each}`).join('\n')}`;
      t.equal(message, whole, name);
    } else {
      // Istio's own schema was faster, or the API server could not read a field at all.
      t.match(said, /is invalid|BadRequest|unable to|ValidationError/, `${object.kind} ${name}`);
    }
  }
  t.comment(`${byWebhook} of ${objects.length} by the webhook, the others by the definitions`);
  t.ok(byWebhook >= 30, 'most of the table says more than the definitions do');
});

t.test('objects without effect are let in with the warnings that the log has, and kubectl shows them', async (t) => {
  const asked = documents('warned').filter(
    ({ apiVersion, kind }) => !/gateway|telemetry/.test(String(apiVersion)) && kind !== 'Namespace' && kind !== 'Pod',
  );
  const list = JSON.stringify({ apiVersion: 'v1', kind: 'List', items: asked });
  const { stderr, stdout, code } = await kubectl(['create', '--dry-run=server', '--validate=false', '-f', '-'], list);
  t.equal(code, 0, stderr);
  t.equal(stdout.match(/ created \(server dry run\)/g)?.length, asked.length);
  const told = new Set([...stderr.matchAll(/^Warning: (.*)$/gm)].map(([, text]) => text));
  const want = parseYaml(readFileSync(file('warned', 'want.yaml'), 'utf8'));
  if (!want.ok) return t.fail(want.error.join('\n'));
  const expected = asked.flatMap(({ apiVersion, kind, metadata }) => {
    const key = `${String(apiVersion).split('/')[0]} ${kind} ${metadata.namespace}/${metadata.name}`;
    return (want.value as Record<string, readonly string[]>)[key] ?? [`${key} is not in want.yaml`];
  });
  t.same([...told].sort(), [...new Set(expected)].sort());
});

t.test(
  'labels that do nothing are warned of, and nobody else’s Namespaces and Services wait for the webhook',
  async (t) => {
    const before = await judged();
    const labelled = {
      apiVersion: 'v1',
      kind: 'Namespace',
      metadata: { name: 'odd', labels: { 'istio.io/dataplane-mode': 'on' } },
    };
    const { stderr } = await kubectl(['create', '--dry-run=server', '-f', '-'], JSON.stringify(labelled));
    t.match(stderr, 'Warning: Namespace odd: label istio.io/dataplane-mode=on is neither ambient nor none');
    t.equal(await judged(), before + 1);
    const plain = { ...labelled, metadata: { name: 'plain', labels: { 'istio.io/dataplane-mode': 'ambient' } } };
    await kubectl(['create', '--dry-run=server', '-f', '-'], JSON.stringify(plain));
    t.equal(await judged(), before + 1);
  },
);

t.test('a revision judges its own objects', async (t) => {
  const before = await judged();
  await api.create(RESOURCES.PeerAuthentication, bad('x', 'elsewhere'));
  await api.create(RESOURCES.PeerAuthentication, bad('labelled', 'shop', { 'istio.io/rev': 'canary' }));
  t.equal(await judged(), before, 'others are not asked about');
  await t.rejects(api.create(RESOURCES.PeerAuthentication, bad('own', 'elsewhere', { 'istio.io/rev': 'default' })), {
    message: /object\.validation\.meltemi\.io.*PeerAuthentication elsewhere\/own: /s,
  });
});

t.test('what got in before is stuck to nothing: it can be labelled and removed', async (t) => {
  const name = { namespace: 'shop', name: 'early' };
  await t.resolves(api.patch(RESOURCES.PeerAuthentication, name, { metadata: { labels: { a: 'b' } } }));
  await t.rejects(api.patch(RESOURCES.PeerAuthentication, name, { spec: { mtls: { mode: 'PERMISSIVE' } } }), {
    message: /PeerAuthentication shop\/early: metadata\.annotations/,
  });
  t.ok(await api.delete(RESOURCES.PeerAuthentication, name));
});

t.test('when roots change, the bundle follows at once, and a refusal without the webhook names it', async (t) => {
  roots.pem = `${webhook.root}\n${webhook.root}`;
  roots.listener();
  await until('the bundle has both', async () => (await bundles()).every((each) => each === roots.pem));
  webhook[Symbol.dispose]();
  const failed = await api.create(RESOURCES.PeerAuthentication, bad('late')).catch((error: unknown) => error);
  t.ok(failed instanceof ApiError && /failed calling webhook "default\.validation/.test(failed.message));
  await t.resolves(
    api.create(RESOURCES.Namespace, { metadata: { name: 'free', labels: { 'istio-injection': 'enabled' } } }),
    'labels are warned of only where somebody answers',
  );
});

/** The configuration of the chart, for a webhook that is on this machine and not behind a Service. */
function configuration(): ApiObject {
  const found = loadChart()
    .render('istio-system', {})
    .find(({ kind }) => kind === 'ValidatingWebhookConfiguration');
  if (found === undefined) throw new Error('the chart has no webhook');
  const webhooks = (found.webhooks as readonly object[]).map((each) => ({
    ...each,
    clientConfig: { url: `https://localhost:${webhook.server.port}/validate` },
  }));
  return { ...found, webhooks };
}

async function policies() {
  const object = await api.get(RESOURCES.ValidatingWebhookConfiguration, { name: NAME });
  const all = (object?.webhooks ?? []) as readonly { readonly name: string; readonly failurePolicy: string }[];
  const of = (judging: boolean) => [
    ...new Set(all.filter(({ name }) => name.includes('.validation.') === judging).map((each) => each.failurePolicy)),
  ];
  return { judging: of(true), others: of(false) };
}

async function bundles(): Promise<readonly string[]> {
  const object = await api.get(RESOURCES.ValidatingWebhookConfiguration, { name: NAME });
  const all = (object?.webhooks ?? []) as readonly { readonly clientConfig: { readonly caBundle?: string } }[];
  return all.map(({ clientConfig }) => Buffer.from(clientConfig.caBundle ?? '', 'base64').toString());
}

async function judged(): Promise<number> {
  const text = await webhook.metrics.render();
  const lines = [...text.matchAll(/^galley_validation_(?:passed|failed)\{[^}]*\} (\d+)$/gm)];
  return lines.reduce((sum, [, count]) => sum + Number(count), 0);
}

/** Refused by the webhook only: the definitions let it through. */
function bad(name: string, namespace = 'shop', labels: Readonly<Record<string, string>> = {}): ApiObject {
  return {
    metadata: { name, namespace, labels, annotations: { 'istio.io/dry-run': 'true' } },
    spec: { mtls: { mode: 'STRICT' } },
  };
}

function file(table: string, name = 'in.yaml'): string {
  return join(import.meta.dirname, '../../../../test/golden/validation', table, name);
}

function documents(table: string): readonly ApiObject[] {
  return [...readYamlDocuments(readFileSync(file(table), 'utf8'))].map((document) => {
    if (!document.ok) throw new Error(document.error.join('\n'));
    return document.value.value as ApiObject;
  });
}

/** kubectl says them one after the other, and some have several lines. */
function refusalsOf(stderr: string): readonly string[] {
  return stderr.split(/^(?=Error from server|The \w+ "|error: )/m);
}

function kubectl(parameters: readonly string[], stdin = ''): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    const child = execFile(
      kubernetes,
      ['kubectl', '--kubeconfig', server.kubeconfig, ...parameters],
      { maxBuffer: 16 * 1024 * 1024 },
      (error, stdout, stderr) => resolve({ code: error === null ? 0 : Number(error.code ?? 1), stdout, stderr }),
    );
    child.stdin?.end(stdin);
  });
}
