import fc from 'fast-check';
import t from 'tap';
import {
  answerOf,
  judge,
  PROBE_LABEL,
  probeAnswer,
  probeObject,
  readAdmissionReview,
  type Verdict,
} from '../../../../src/control/validate/admission-review.js';
import { isRecord } from '../../../../src/model/kubernetes/fields.js';
import { parseObject } from '../../../../src/model/kubernetes/object.js';
import { reviewOf } from '../../../support/webhook.js';

const GOOD = {
  apiVersion: 'networking.istio.io/v1',
  kind: 'WorkloadEntry',
  metadata: { name: 'vm', namespace: 'shop', annotations: { a: 'b' } },
  spec: { address: '10.0.0.1' },
};
const BAD = { ...GOOD, spec: { address: '10.0.0.1:80' } };

function verdict(object: unknown, request: Readonly<Record<string, unknown>> = {}): Verdict {
  const review = readAdmissionReview(reviewOf(object, request));
  if (!review.ok) throw new Error(review.error);
  return judge(review.value, undefined);
}

t.test('an object is refused exactly when the parser of the cluster refuses it', async (t) => {
  t.ok(verdict(GOOD).allowed);
  const bad = verdict(BAD);
  t.notOk(bad.allowed);
  t.equal(bad.message, 'WorkloadEntry shop/vm: spec.address is "10.0.0.1:80", neither an IP address nor a host name');
});

t.test('removals, subresources and unknown kinds are let in unseen', async (t) => {
  t.strictSame(verdict(BAD, { operation: 'DELETE' }), { allowed: true, message: '', warnings: [] });
  t.ok(verdict(BAD, { subResource: 'status' }).allowed);
  t.ok(verdict({ apiVersion: 'example.com/v1', kind: 'Odd', metadata: {} }).allowed);
  t.match(verdict(null), { allowed: false, message: /there is no object/ });
});

t.test('what the API server names itself is no mistake', async (t) => {
  const { name: _, ...metadata } = GOOD.metadata;
  t.ok(verdict({ ...GOOD, metadata: { ...metadata, generateName: 'vm-' } }).allowed);
  t.match(
    verdict({ ...GOOD, metadata: { generateName: 'vm-' }, spec: {} }, { namespace: 'shop' }).message,
    /^WorkloadEntry shop\/vm-0: /,
  );
  t.notOk(verdict({ ...GOOD, metadata }).allowed);
});

t.test('a bad object that got in can be labelled and removed, but not written anew', async (t) => {
  const update = (object: unknown, oldObject: unknown) => verdict(object, { operation: 'UPDATE', oldObject });
  const labelled = { ...BAD, metadata: { ...BAD.metadata, labels: { a: 'b' } } };
  t.match(update(labelled, BAD), { allowed: true, warnings: [/^WorkloadEntry shop\/vm was no good before/] });
  t.notOk(update({ ...BAD, spec: { ...BAD.spec, weight: 1 } }, BAD).allowed);
  t.notOk(update(BAD, GOOD).allowed);
  const leaving = { ...BAD, metadata: { ...BAD.metadata, deletionTimestamp: '2030-01-01T00:00:00Z' } };
  t.ok(update(leaving, GOOD).allowed);
  const dryRun = { ...BAD, metadata: { ...BAD.metadata, annotations: { 'istio.io/dry-run': 'true' } } };
  t.notOk(update(dryRun, BAD).allowed);
});

t.test('Kubernetes’ own kinds are never refused', async (t) => {
  const pod = { apiVersion: 'v1', kind: 'Pod', metadata: { name: 'x', namespace: 'y' }, status: { phase: 'New' } };
  t.match(verdict(pod), { allowed: true, warnings: [/^Pod y\/x is not understood: status\.phase/] });
});

t.test('a probe is refused with its own number, other ConfigMaps are not', async (t) => {
  t.match(verdict(probeObject('istio-system', '17')), { allowed: false, message: probeAnswer('17') });
  t.ok(
    verdict({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'x', labels: { [PROBE_LABEL]: '' } } }).allowed,
  );
});

t.test('of many problems and warnings some are told, and how many there are', async (t) => {
  const rules = Array.from({ length: 300 }, () => ({ when: [{ key: 'nonsense', values: ['x'] }] }));
  const policy = {
    apiVersion: 'security.istio.io/v1',
    kind: 'AuthorizationPolicy',
    metadata: { name: 'x', namespace: 'y' },
  };
  const { message } = verdict({ ...policy, spec: { rules } });
  t.equal(message.split('\n').length, 22);
  t.match(message, /\n- and 280 more$/);

  const review = readAdmissionReview(reviewOf(GOOD));
  if (!review.ok) throw new Error(review.error);
  const warnings = Array.from({ length: 100 }, (_, i) => `${i} ${'x'.repeat(300)}`);
  const answer = answerOf(review.value, { allowed: true, message: '', warnings }) as {
    response: { warnings: readonly string[] };
  };
  t.ok(answer.response.warnings.every((warning) => warning.length <= 250));
  t.ok(answer.response.warnings.join('').length < 4_096);
  t.equal(answer.response.warnings.at(-1), 'and 85 more, see /debug/status');
});

t.test('whatever comes, there is one answer, and it is that of the parser', async () => {
  const kinds = fc.constantFrom(
    ...['networking.istio.io/v1 ServiceEntry', 'networking.istio.io/v1 WorkloadEntry', 'v1 ConfigMap', 'v1 Pod'],
    ...['security.istio.io/v1 AuthorizationPolicy', 'security.istio.io/v1 PeerAuthentication', 'v1 Namespace'],
  );
  const anything = fc.anything({ withNullPrototype: false, maxDepth: 5 }).map(throughJson);
  const object = fc
    .tuple(kinds, fc.dictionary(fc.constantFrom('spec', 'metadata', 'status', 'x'), anything))
    .map(([kind, body]) => {
      const [apiVersion, name] = kind.split(' ');
      return { apiVersion, kind: name, ...body };
    });
  const review = fc.oneof(
    anything,
    fc
      .tuple(object, fc.dictionary(fc.constantFrom('uid', 'kind', 'operation', 'oldObject', 'namespace'), anything))
      .map(([each, request]) => throughJson(reviewOf(each, request))),
  );
  fc.assert(
    fc.property(review, (body) => {
      const request = readAdmissionReview(body);
      if (!request.ok) return typeof request.error === 'string';
      const { operation, subResource, group, object } = request.value;
      const said = judge(request.value, undefined);
      JSON.stringify(answerOf(request.value, said));
      if (!said.allowed && (said.message === '' || said.warnings.length > 0)) return false;
      const isJudged = operation === 'CREATE' && subResource === '' && group.endsWith('.istio.io');
      const isWhole = isRecord(object) && isRecord(object.metadata) && typeof object.metadata.namespace === 'string';
      const isNamed = isWhole && typeof (object.metadata as { generateName?: unknown }).generateName !== 'string';
      return !isJudged || !isNamed || said.allowed === parseObject(object).ok;
    }),
    { numRuns: 3_000 },
  );
});

t.test('the most hostile of reviews is judged in little time and room', async (t) => {
  const policy = {
    apiVersion: 'security.istio.io/v1',
    kind: 'AuthorizationPolicy',
    metadata: { name: 'x', namespace: 'y' },
  };
  const entry = { apiVersion: 'networking.istio.io/v1', kind: 'ServiceEntry', metadata: { name: 'x', namespace: 'y' } };
  const many = <T>(count: number, of: (i: number) => T): T[] => Array.from({ length: count }, (_, i) => of(i));
  const hostile: readonly (readonly [name: string, object: unknown])[] = [
    ['empty conditions', { ...policy, spec: { rules: [{ when: many(1_000_000, () => ({})) }] } }],
    ['nested empty conditions', { ...policy, spec: { rules: many(60, () => ({ when: many(16_000, () => ({})) })) } }],
    [
      'numbers for texts',
      { ...policy, spec: { rules: [{ from: [{ source: { principals: many(1_500_000, () => 0) } }] }] } },
    ],
    ['equal ports', { ...entry, spec: { hosts: ['a'], ports: many(60_000, () => ({ name: 'a', number: 1 })) } }],
    [
      'different ports',
      { ...entry, spec: { hosts: ['a'], ports: many(60_000, (i) => ({ name: `a${i}`, number: i + 1 })) } },
    ],
    ['namespaces', { ...entry, spec: { hosts: ['a'], exportTo: many(300_000, (i) => `n${i}`) } }],
    ['hosts', { ...entry, spec: { hosts: many(300_000, (i) => `a${i}.b`) } }],
    [
      'a long path',
      { ...policy, spec: { rules: [{ to: [{ operation: { paths: [`/${'{*}/'.repeat(900_000)}{**}`] } }] }] } },
    ],
    ['a long label', { ...policy, spec: { selector: { matchLabels: { [`${'a.'.repeat(1_900_000)}/`]: '' } } } }],
    ['a long host', { ...entry, spec: { hosts: [`${'a-'.repeat(1_900_000)}.`] } }],
    [
      'a long key',
      { ...policy, spec: { rules: [{ when: [{ key: `request.headers[${'['.repeat(3_900_000)}`, values: ['x'] }] }] } },
    ],
  ];
  for (const [name, object] of hostile) {
    const text = JSON.stringify(reviewOf(object));
    t.ok(text.length < 4.1 * 1024 * 1024, `${name} fit into a body`);
    const before = performance.now();
    const review = readAdmissionReview(JSON.parse(text));
    const said = review.ok ? answerOf(review.value, judge(review.value, undefined)) : undefined;
    const tookMs = performance.now() - before;
    t.ok(tookMs < 3_000, `${name}: ${Math.round(tookMs)} ms`);
    t.ok(JSON.stringify(said).length < 64 * 1024, `${name} are answered in few words`);
  }
  const deep = `${'{"a":'.repeat(500_000)}1${'}'.repeat(500_000)}`;
  const body = JSON.stringify(reviewOf({ ...policy, spec: '@' }, { operation: 'UPDATE', oldObject: { spec: '@' } }));
  const review = readAdmissionReview(JSON.parse(body.replaceAll('"@"', deep)));
  t.ok(review.ok);
  if (review.ok) t.doesNotThrow(() => judge(review.value, undefined), 'depth');
});

function throughJson(value: unknown): unknown {
  const text = JSON.stringify(value, (_, each: unknown) => (typeof each === 'bigint' ? each.toString() : each));
  return text === undefined ? null : (JSON.parse(text) as unknown);
}
