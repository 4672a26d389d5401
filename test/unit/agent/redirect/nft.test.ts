import { test } from 'tap';
import { NftRedirector } from '../../../../src/agent/redirect/nft.js';
import type { RedirectedPod } from '../../../../src/agent/redirect/redirector.js';
import type { Run } from '../../../../src/lib/command.js';
import { err, ok } from '../../../../src/lib/result.js';

const pod: RedirectedPod = { name: 'shop/web', netns: '/proc/self/ns/net', ipv6: true, nameservers: [] };
const gone: RedirectedPod = { ...pod, netns: '/proc/self/ns/no-such' };

function rig(answers: { listing?: () => string; failOn?: string; routing?: string; missing?: boolean } = {}) {
  const calls: string[] = [];
  const run: Run = async (command, args) => {
    const line = [command, ...args].join(' ');
    calls.push(line);
    if (answers.failOn !== undefined && line.includes(answers.failOn)) return err('Operation not permitted');
    if (line.endsWith('list tables inet')) return ok(answers.listing?.() === '' ? '' : 'table inet meltemi\n');
    return ok(line.includes(' list ') ? (answers.listing?.() ?? 'table inet meltemi {\n}\n') : '');
  };
  const border = (name: string) => () => {
    calls.push(name);
    return { ok: answers.routing === undefined, error: answers.routing ?? '' };
  };
  const tools = {
    addRouting: border('add routing'),
    removeRouting: border('remove routing'),
    ensureRouting: () => ({ ok: true, error: '', missing: answers.missing ?? false }),
  };
  return { calls, redirector: new NftRedirector({ tools, run }) };
}

test('routes are there before the rules that need them, and go after them', async (t) => {
  const { calls, redirector } = rig();
  t.same(await redirector.apply(pod), ok(undefined));
  t.same(await redirector.remove(pod), ok(undefined));
  t.same(calls, [
    'add routing',
    'nsenter --net=/proc/self/ns/net nft -f -',
    'nsenter --net=/proc/self/ns/net nft list table inet meltemi',
    'nsenter --net=/proc/self/ns/net nft -f -',
    'remove routing',
  ]);
});

test('an error names the pod, the step and what was said', async (t) => {
  t.same(
    await rig({ failOn: '-f' }).redirector.apply(pod),
    err('pod shop/web: redirection cannot be set: Operation not permitted'),
  );
  t.same(
    await rig({ routing: 'no table' }).redirector.apply(pod),
    err('pod shop/web: policy routing cannot be set: no table'),
  );
});

test('a pod whose namespace is gone needs no removal', async (t) => {
  const { calls, redirector } = rig();
  t.same(await redirector.release(gone), ok(undefined));
  t.same(await redirector.remove(gone), ok(undefined));
  t.same(calls, []);
});

test('audit tells a missing table, a missing rule, a foreign rule and another order', async (t) => {
  let listing = 'table inet meltemi {\nfirst\nsecond\n}\n';
  const { redirector } = rig({ listing: () => listing });
  t.same(await redirector.audit(pod), ok(['pod shop/web: redirection was not set by this agent yet']));
  await redirector.apply(pod);
  t.same(await redirector.audit(pod), ok([]));
  listing = 'table inet meltemi {\nfirst\nthird\n}\n';
  t.same(await redirector.audit(pod), ok(['pod shop/web: missing: second', 'pod shop/web: not ours: third']));
  listing = 'table inet meltemi {\nsecond\nfirst\n}\n';
  t.same(await redirector.audit(pod), ok(['pod shop/web: the rules are in another order']));
  listing = '';
  t.same(await redirector.audit(pod), ok(['pod shop/web: the table inet meltemi is gone']));
});
