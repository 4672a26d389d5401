import { test } from 'tap';
import { parseResolvConf, podNames } from '../../../../src/agent/enroll/pod-names.js';

const files = {
  cluster: parseResolvConf(
    'search istio-system.svc.cluster.local svc.cluster.local cluster.local corp.example\nnameserver 10.96.0.10\noptions ndots:5\n',
  ),
  node: parseResolvConf(
    '# by hand\nnameserver 192.0.2.53\nnameserver nonsense\nsearch old.example\nsearch corp.example\n',
  ),
};
const wish = (policy: string, nameservers: string[] = [], searches: string[] = []) => ({
  policy,
  nameservers,
  searches,
});

test('a pod with ClusterFirst searches its own namespace', async (t) => {
  t.same(podNames(wish('ClusterFirst'), 'shop', 'cluster.local', files), {
    nameservers: ['10.96.0.10'],
    searches: ['shop.svc.cluster.local', 'svc.cluster.local', 'cluster.local', 'corp.example'],
  });
});

test('a pod with Default asks as the node does, and one with None as it says itself', async (t) => {
  t.same(podNames(wish('Default'), 'shop', 'cluster.local', files), {
    nameservers: ['192.0.2.53'],
    searches: ['corp.example'],
  });
  t.same(podNames(wish('None', ['1.1.1.1'], ['x.example']), 'shop', 'cluster.local', files), {
    nameservers: ['1.1.1.1'],
    searches: ['x.example'],
  });
});

test('what a pod adds comes after, nothing twice, and no more than the kubelet writes', async (t) => {
  const { nameservers, searches } = podNames(
    wish('ClusterFirst', ['10.96.0.10', '1.1.1.1', 'nonsense', '2.2.2.2', '3.3.3.3'], ['corp.example', 'x.example']),
    'shop',
    'cluster.local',
    files,
  );
  t.same(nameservers, ['10.96.0.10', '1.1.1.1', '2.2.2.2']);
  t.same(searches.slice(-2), ['corp.example', 'x.example']);
});
