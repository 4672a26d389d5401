import { test } from 'tap';
import { NodeGuard, removeNodeGuard } from '../../../../src/agent/redirect/node-guard.js';
import type { Run } from '../../../../src/lib/command.js';
import { ManualClock } from '../../../../src/lib/manual-clock.js';
import { err, ok } from '../../../../src/lib/result.js';
import { logger, setLogSink } from '../../../../src/telemetry/log.js';

setLogSink(() => undefined);

const POD = { ips: ['10.0.1.2'], nameservers: ['10.96.0.10'] };

function rig(failing: { on?: string; listing?: string } = {}) {
  const clock = new ManualClock();
  const inputs: string[] = [];
  const run: Run = async (command, args, options) => {
    const line = [command, ...args].join(' ');
    const input = options?.input ?? '';
    if (failing.on !== undefined && (line.includes(failing.on) || input.includes(failing.on)))
      return err('no such thing');
    if (input !== '') inputs.push(input);
    if (line.includes('list counters'))
      return ok('counter held { packets 3 bytes 9 }\ncounter spoofed { packets 1 bytes 9 }');
    return ok(line.includes(' list ') ? (failing.listing ?? 'rules') : '');
  };
  const guard = new NodeGuard({ netns: '/ns', revision: '', hbonePort: 15008, clock, log: logger('test'), run });
  return {
    guard,
    clock,
    failing,
    /** What was written since the last time. */
    async written(): Promise<string[]> {
      clock.advance(100);
      await guard.audit();
      return inputs.splice(0);
    },
  };
}

test('before all is known, sets only grow; then they are exact, and after that only changes are written', async (t) => {
  const { guard, written } = rig();
  await guard.put('a', POD);
  const [rules, elements, bridge] = await written();
  t.notMatch(rules, /flush set/);
  t.match(elements, 'add element inet meltemi-node captured-ip { 10.0.1.2 }');
  t.match(elements, 'add element inet meltemi-node nameservers-ip { 10.96.0.10 }');
  t.match(bridge, 'add table bridge meltemi-node');
  guard.podsComplete();
  guard.meshChanged(['10.0.1.2', '10.0.2.2'], [], true);
  const [exact, exactBridge] = await written();
  t.match(exact, /flush set inet meltemi-node captured-ip\n/);
  t.match(exact, 'add element inet meltemi-node mesh-ip { 10.0.1.2, 10.0.2.2 }');
  t.match(exactBridge, 'add element bridge meltemi-node local-ip { 10.0.1.2 }');
  guard.meshChanged(['10.0.3.3'], ['10.0.1.2'], true);
  t.same(await written(), [
    [
      'add element inet meltemi-node mesh-ip { 10.0.1.2 }',
      'delete element inet meltemi-node mesh-ip { 10.0.1.2 }',
      'add element inet meltemi-node mesh-ip { 10.0.3.3 }',
      'add element bridge meltemi-node local-ip { 10.0.1.2 }',
      'delete element bridge meltemi-node local-ip { 10.0.1.2 }',
      '',
    ].join('\n'),
  ]);
  guard.meshChanged(['10.0.3.3'], ['10.0.9.9'], true);
  t.same(await written(), [], 'nothing new, nothing written');
});

test('a pod that enters or leaves the mesh is known to probes, and not held', async (t) => {
  const { guard, written } = rig();
  guard.podsComplete();
  guard.meshChanged(POD.ips, [], true);
  await guard.put('a', { ...POD, passing: true });
  const [rules, bridge] = await written();
  t.match(rules, 'add element inet meltemi-node captured-ip { 10.0.1.2 }');
  t.notMatch(rules, 'add element inet meltemi-node held-ip');
  t.notMatch(bridge, 'add element');
  t.notOk(guard.holds('a'));
  await guard.put('a', POD);
  t.match(await written(), [
    /^add element inet meltemi-node held-ip .*\nadd element bridge meltemi-node local-ip .*\n$/,
  ]);
  t.ok(guard.holds('a'));
  await guard.put('a', { ...POD, passing: true });
  t.match(await written(), [/delete element inet meltemi-node held-ip/]);
  await guard.remove('a');
  t.notOk(guard.holds('a'));
});

test('an address that somebody still has is taken out at once, others with the next burst', async (t) => {
  const { guard, clock } = rig();
  guard.podsComplete();
  guard.meshChanged(['10.0.1.1', '10.0.1.2'], [], true);
  guard.meshChanged([], ['10.0.1.1'], true);
  clock.advance(0);
  t.equal(clock.pending, 1, 'it waits with what came before');
  guard.meshChanged([], ['10.0.1.2'], true, true);
  clock.advance(0);
  t.equal(clock.pending, 0, 'it does not wait');
});

test('pods that come together are written together', async (t) => {
  const { guard, written } = rig();
  await Promise.all(['a', 'b', 'c'].map((uid, i) => guard.put(uid, { ips: [`10.0.1.${i}`], nameservers: [] })));
  const rules = (await written()).filter((text) => text.includes('add rule inet'));
  t.equal(rules.length, 1);
});

test('an error is told to who enrols the pod, stays known, and the next write begins anew', async (t) => {
  const { guard, written, failing } = rig({ on: '-f' });
  t.match(await guard.put('a', POD), { ok: false, error: 'the rules of the node cannot be set: no such thing' });
  t.equal(guard.problem, 'the rules of the node cannot be set: no such thing');
  delete failing.on;
  t.same(await guard.put('a', POD), ok(undefined));
  t.equal(guard.problem, '');
  t.match((await written())[0], 'add table inet meltemi-node');
});

test('a kernel that filters no bridges is asked once', async (t) => {
  const { guard, written } = rig({ on: 'bridge' });
  t.same(await guard.put('a', POD), ok(undefined));
  await guard.put('b', { ips: ['10.0.1.3'], nameservers: [] });
  t.notOk((await written()).some((text) => text.includes('bridge')));
});

test('an audit counts packets, and drift, and sets the rules again', async (t) => {
  const { guard, written, failing } = rig();
  await guard.put('a', POD);
  await written();
  t.same(guard.counts, { held: 6, spoofed: 2 }, 'of both families');
  t.equal(guard.drifts, 0);
  failing.listing = 'somebody was here';
  t.match((await written())[0], 'add table inet meltemi-node');
  t.equal(guard.drifts, 1);
  t.same(await written(), []);
});

test('only our tables are removed', async (t) => {
  const texts: string[] = [];
  const tables =
    'table inet meltemi-node\ntable inet kube-proxy\ntable bridge meltemi-node-next\ntable ip meltemi-node\n';
  const run: Run = async (_command, args, options) => {
    if (options?.input) texts.push(options.input);
    return ok(args.includes('list') ? tables : '');
  };
  t.same(await removeNodeGuard('/ns', run), ok(undefined));
  t.same(texts, ['delete table inet meltemi-node\ndelete table bridge meltemi-node-next\n']);
});
