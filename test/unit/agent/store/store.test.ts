import t from 'tap';
import { Store } from '../../../../src/agent/store/store.js';
import { Action, Scope } from '../../../../src/gen/istio/security/authorization_pb.js';
import { WorkloadStatus } from '../../../../src/gen/istio/workload/workload_pb.js';
import { localPod, policy, service, store, uidOf, workload } from '../mesh-fixture.js';

const WEB = 'default/web.default.svc.cluster.local';

function named(reads: readonly { table: string; key: string }[]): string[] {
  return reads.map(({ table, key }) => `${table} ${key}`).sort();
}

t.test('a workload is found by uid, address and service, and no longer when it is gone', async (t) => {
  const made = store([workload('a', { ips: ['10.0.0.1', 'fd00::1'], services: { [WEB]: { 80: 8080 } } })]);
  const uid = uidOf('a');
  t.equal(made.workload(uid)?.name, 'a');
  t.strictSame(made.workloadsAt('', '10.0.0.1'), [uid]);
  t.strictSame(made.workloadsAt('', 'fd00::1'), [uid]);
  t.strictSame(made.endpointsOf(WEB), [uid]);
  made.applyAddresses({ changed: [], removed: [uid] });
  t.equal(made.workload(uid), undefined);
  t.strictSame(made.workloadsAt('', '10.0.0.1'), []);
  t.strictSame(made.endpointsOf(WEB), []);
});

t.test('a change names what it looks like before and after', async (t) => {
  const made = store([workload('a', { ips: ['10.0.0.1'], services: { [WEB]: { 80: 8080 } } })]);
  const moved = made.applyAddresses({ changed: [workload('a', { ips: ['10.0.0.2'] })], removed: [] });
  t.strictSame(named(moved.reads), [
    'address /10.0.0.1',
    'address /10.0.0.2',
    `membership ${WEB} ${uidOf('a')}`,
    `workload ${uidOf('a')}`,
  ]);
  t.strictSame([...moved.memberships], [WEB]);
  const selected = workload('a', { ips: ['10.0.0.2'], authorizationPolicies: ['default/p'] });
  t.strictSame(named(made.applyAddresses({ changed: [selected], removed: [] }).reads), [`policies-of ${uidOf('a')}`]);
  const sick = workload('a', {
    ips: ['10.0.0.2'],
    authorizationPolicies: ['default/p'],
    status: WorkloadStatus.UNHEALTHY,
    capacity: 3,
  });
  const health = made.applyAddresses({ changed: [sick], removed: [] });
  t.strictSame(health.reads, []);
  t.strictSame([...health.workloads], [uidOf('a')]);
});

t.test('what is known of a name concerns the workloads that have it instead of addresses', async (t) => {
  const vm = workload('vm', { hostname: 'vm.example.com' });
  const both = workload('both', { hostname: 'vm.example.com', ips: ['10.0.0.9'] });
  const made = store([vm, both]);
  const { version } = made;
  const known = { ips: ['192.0.2.1'], problem: '', isStale: false };
  const change = made.applyName('vm.example.com', known);
  t.strictSame([...change.workloads], [uidOf('vm')]);
  t.strictSame([...change.names], ['vm.example.com']);
  t.strictSame(named(change.reads), ['name vm.example.com']);
  t.equal(change.version, version + 1);
  t.strictSame(made.name('vm.example.com'), known);
  made.applyAddresses({ changed: [], removed: [uidOf('vm')] });
  t.strictSame([...made.applyName('vm.example.com', undefined).workloads], []);
  t.equal(made.name('vm.example.com'), undefined);
});

t.test('the same again is no change and no new version', async (t) => {
  const a = workload('a', { ips: ['10.0.0.1'] });
  const p = policy('p', { scope: Scope.GLOBAL });
  const made = store([a], [p], [localPod('a', ['10.0.0.1'])]);
  const { version } = made;
  t.strictSame(made.applyAddresses({ changed: [a], removed: ['unknown'] }).reads, []);
  t.strictSame(made.applyPolicies({ changed: [p], removed: [] }).reads, []);
  t.strictSame(made.applyPod(localPod('a', ['10.0.0.1'])).reads, []);
  t.equal(made.version, version);
});

t.test('virtual addresses are found by the longest block, per network', async (t) => {
  const made = store([
    service('wide', { vips: ['10.0.0.0/8'] }),
    service('narrow', { vips: ['10.96.0.0/16', '10.96.0.1'] }),
    service('twin', { vips: ['10.96.0.1'] }),
  ]);
  const names = (ip: string) => made.servicesAt('', ip).map((key) => key.split('/')[1]?.split('.')[0]);
  t.strictSame(names('10.96.0.1'), ['narrow', 'twin']);
  t.strictSame(names('10.96.0.2'), ['narrow']);
  t.strictSame(names('10.1.0.1'), ['wide']);
  t.strictSame(names('11.0.0.1'), []);
  t.strictSame(made.servicesAt('other', '10.96.0.1'), []);
  const change = made.applyAddresses({ changed: [], removed: ['default/narrow.default.svc.cluster.local'] });
  t.ok(named(change.reads).includes('vip/ 10.96.0.0/16'));
  t.strictSame(names('10.96.0.1'), ['twin']);
  t.strictSame(names('10.96.0.2'), ['wide']);
});

t.test(
  'a bad resource is refused by name, the rest of the message takes effect, and the last good value stays',
  async (t) => {
    const made = store([workload('a', { ips: ['10.0.0.1'] })]);
    const change = made.applyAddresses({
      changed: [
        { name: uidOf('a'), bytes: new Uint8Array([255]) },
        { name: 'other', bytes: workload('b').bytes },
        { name: 'nothing', bytes: new Uint8Array() },
        workload('c', { ips: ['10.0.0.3'] }),
      ],
      removed: [],
    });
    t.match(change.refused, [
      { name: uidOf('a'), reason: /not an istio.workload.Address/ },
      { name: 'other', reason: /carries the uid/ },
      { name: 'nothing', reason: /neither a workload nor a service/ },
    ]);
    t.equal(made.workload(uidOf('a'))?.name, 'a');
    t.equal(made.workload(uidOf('c'))?.name, 'c');
  },
);

t.test('a bad policy is refused, naming the rule', async (t) => {
  const made = new Store();
  const rule = (match: object) => ({ rules: [{ clauses: [] }, { clauses: [{ matches: [match] }] }] });
  const block = { address: new Uint8Array([10, 0, 0, 0]), length: 33 };
  const change = made.applyPolicies({
    changed: [policy('a', rule({ sourceIps: [block] })), policy('b', rule({ principals: [{}] })), policy('c')],
    removed: [],
  });
  t.match(change.refused, [
    { name: 'default/a', reason: 'policy default/a: rule 1 names a prefix of 33 bits' },
    { name: 'default/b', reason: 'policy default/b: rule 1 has a string match of an unknown kind' },
  ]);
  t.ok(made.policy('default/c'));
});

t.test('policies are in scope by mesh, namespace, or name, and follow a change of scope', async (t) => {
  const made = store(
    [],
    [
      policy('mesh', { scope: Scope.GLOBAL, namespace: 'istio-system' }),
      policy('ns', { scope: Scope.NAMESPACE }),
      policy('one', { scope: Scope.WORKLOAD_SELECTOR }),
    ],
  );
  t.strictSame(made.policiesIn(''), ['istio-system/mesh']);
  t.strictSame(made.policiesIn('default'), ['default/ns']);
  const change = made.applyPolicies({
    changed: [policy('ns', { scope: Scope.GLOBAL, action: Action.DENY })],
    removed: [],
  });
  t.strictSame(named(change.reads), ['policies-in ', 'policies-in default', 'policy default/ns']);
  t.strictSame(made.policiesIn(''), ['default/ns', 'istio-system/mesh']);
  t.strictSame(made.policiesIn('default'), []);
});

t.test('it is synced once both kinds were received, and that is a change', async (t) => {
  const made = new Store();
  t.equal(made.synced, false);
  t.strictSame(made.applyAddresses({ changed: [], removed: [] }).reads, []);
  t.strictSame(named(made.applyPolicies({ changed: [], removed: [] }).reads), ['mesh synced']);
  t.equal(made.synced, true);
});

t.test('only what somebody can have read is named, and the version moves all the same', async (t) => {
  const made = new Store(({ table }) => table === 'address');
  const change = made.applyAddresses({ changed: [workload('a', { ips: ['10.0.0.1'] })], removed: [] });
  t.strictSame(named(change.reads), ['address /10.0.0.1']);
  const quiet = new Store(() => false);
  t.equal(quiet.applyAddresses({ changed: [workload('a')], removed: [] }).version, 1);
});

t.test('rows that come and go for long do not pile up', async (t) => {
  const made = new Store();
  for (let i = 0; i < 5000; i++) {
    const name = `w-${i % 10}`;
    made.applyAddresses({
      changed: [workload(name, { ips: [`10.0.${i & 255}.1`], hostname: 'x'.repeat(1000) })],
      removed: [],
    });
  }
  t.equal(made.sizes.workloads, 10);
  t.ok(made.sizes.encodedBytes < 1_000_000, `${made.sizes.encodedBytes} bytes for 10 rows`);
  for (let i = 0; i < 10; i++) t.equal(made.workload(uidOf(`w-${i}`))?.name, `w-${i}`);
});
