import t from 'tap';
import { authorizedIdentity } from '../../../../src/control/ca/node-authorizer.js';

const rule = {
  trustDomain: 'cluster.local',
  nodeAccounts: new Set(['istio-system/meltemi-agent']),
  identitiesOfNode: (node: string) =>
    new Set(node === 'node-1' ? ['spiffe://cluster.local/ns/shop/sa/cart'] : ['spiffe://cluster.local/ns/shop/sa/db']),
};
const agent = {
  identity: { trustDomain: 'cluster.local', namespace: 'istio-system', serviceAccount: 'meltemi-agent' },
  node: 'node-1',
  untilMs: 0,
};
const CART = 'spiffe://cluster.local/ns/shop/sa/cart';

t.test('an agent gets the identity of a live pod on its node', async (t) => {
  t.same(await authorizedIdentity(agent, CART, rule), { ok: true, value: CART });
});

t.test('an agent that names nobody gets its own', async (t) => {
  t.same(await authorizedIdentity(agent, undefined, rule), {
    ok: true,
    value: 'spiffe://cluster.local/ns/istio-system/sa/meltemi-agent',
  });
});

t.test('of a pod that is too new to be known the rule asks, and asks for none that it refuses anyway', async (t) => {
  const asked: string[] = [];
  const lives = async (node: string, { serviceAccount }: { serviceAccount: string }) => {
    asked.push(`${node} ${serviceAccount}`);
    return serviceAccount === 'fresh';
  };
  const FRESH = 'spiffe://cluster.local/ns/shop/sa/fresh';
  t.same(await authorizedIdentity(agent, CART, { ...rule, lives }), { ok: true, value: CART });
  t.same(await authorizedIdentity(agent, FRESH, { ...rule, lives }), { ok: true, value: FRESH });
  t.match(await authorizedIdentity(agent, 'spiffe://cluster.local/ns/shop/sa/db', { ...rule, lives }), { ok: false });
  t.match(await authorizedIdentity(agent, 'spiffe://elsewhere/ns/shop/sa/fresh', { ...rule, lives }), { ok: false });
  t.match(await authorizedIdentity({ ...agent, node: undefined }, FRESH, { ...rule, lives }), { ok: false });
  t.same(asked, ['node-1 fresh', 'node-1 db']);
});

t.test('nobody gets the identity of a pod on another node, of another account or of another domain', async (t) => {
  const refuse = async (
    caller: typeof agent | (Omit<typeof agent, 'node'> & { node: undefined }),
    wanted: string,
    error: RegExp,
  ) => t.match(await authorizedIdentity(caller, wanted, rule), { ok: false, error });
  await refuse(agent, 'spiffe://cluster.local/ns/shop/sa/db', /no live pod on node node-1/);
  await refuse({ ...agent, node: 'node-2' }, CART, /no live pod on node node-2/);
  await refuse({ ...agent, node: undefined }, CART, /bound to no pod on a node/);
  await refuse({ ...agent, identity: { ...agent.identity, serviceAccount: 'cart' } }, CART, /is no node agent/);
  await refuse({ ...agent, identity: { ...agent.identity, namespace: 'shop' } }, CART, /is no node agent/);
  await refuse(agent, 'spiffe://elsewhere/ns/shop/sa/cart', /not of trust domain cluster.local/);
  await refuse(agent, 'spiffe://cluster.local/ns/shop/sa/cart/../db', /is not spiffe:/);
  await refuse(agent, 'cart', /is not spiffe:/);
});
