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
  t.same(authorizedIdentity(agent, CART, rule), { ok: true, value: CART });
});

t.test('an agent that names nobody gets its own', async (t) => {
  t.same(authorizedIdentity(agent, undefined, rule), {
    ok: true,
    value: 'spiffe://cluster.local/ns/istio-system/sa/meltemi-agent',
  });
});

t.test('nobody gets the identity of a pod on another node, of another account or of another domain', async (t) => {
  const refuse = (
    caller: typeof agent | (Omit<typeof agent, 'node'> & { node: undefined }),
    wanted: string,
    error: RegExp,
  ) => t.match(authorizedIdentity(caller, wanted, rule), { ok: false, error });
  refuse(agent, 'spiffe://cluster.local/ns/shop/sa/db', /no live pod on node node-1/);
  refuse({ ...agent, node: 'node-2' }, CART, /no live pod on node node-2/);
  refuse({ ...agent, node: undefined }, CART, /names no node/);
  refuse({ ...agent, identity: { ...agent.identity, serviceAccount: 'cart' } }, CART, /is no node agent/);
  refuse({ ...agent, identity: { ...agent.identity, namespace: 'shop' } }, CART, /is no node agent/);
  refuse(agent, 'spiffe://elsewhere/ns/shop/sa/cart', /not of trust domain cluster.local/);
  refuse(agent, 'spiffe://cluster.local/ns/shop/sa/cart/../db', /is not spiffe:/);
  refuse(agent, 'cart', /is not spiffe:/);
});
