import { join } from 'node:path';
import t, { type Test } from 'tap';
import { AMBIENT, accessRecords, captured, OUT, podOn } from './harness/in-mesh.js';
import { appService } from './harness/manifests.js';
import { meshCluster } from './harness/mesh.js';
import { enforceNetworkPolicies, forgetNetworkPolicies } from './harness/network-policy.js';
import { sh, until } from './harness/shell.js';
import { applyAndWait, awaitService, clientIn, namespaceFor } from './harness/tap-cluster.js';

/** What NetworkPolicies do to tunnels, and that `meltemi check` and the access log say so. Some 25 s. */
t.setTimeout(300_000);
const cluster = await meshCluster();
const { own } = cluster;
const skip = own === undefined ? 'needs machines of our own' : false;
const [first = '', second = first] = await cluster.nodes();

t.test(
  'a policy that names ports has to name 15008, and one that names pods means those that call',
  { skip },
  async (t) => {
    if (own === undefined) return;
    const namespace = await namespaceFor(t, cluster, AMBIENT);
    await applyAndWait(
      cluster,
      appService({ namespace, name: 'web' }),
      podOn(first, { namespace, name: 'web' }),
      podOn(second, { namespace, name: 'friend' }),
      podOn(first, { namespace, name: 'near' }),
      podOn(second, { namespace, name: 'plain', labels: OUT }),
    );
    await captured(cluster, namespace, 'web', 'friend', 'near');
    await awaitService(cluster, namespace, 'plain', 'http://web/');
    t.teardown(() => forgetNetworkPolicies(own));

    const enforce = async (ingress: readonly object[]) => {
      await applyAndWait(cluster, policy(namespace, ingress));
      await enforceNetworkPolicies(own);
    };
    const dial = (who: string, timeout: string) =>
      clientIn(cluster, namespace, who, [
        '--url',
        'http://web/',
        '--count',
        '3',
        '--parallel',
        '3',
        '--timeout',
        timeout,
      ]);

    // The first tunnel of this client: the policy stands in its way.
    await enforce([{ ports: [{ port: 8080 }] }]);
    const [blocked, past] = await Promise.all([dial('friend', '20s'), dial('plain', '5s')]);
    t.equal(blocked.ok, 0, 'to 15008 there is no way');
    t.equal(past.ok, 3, 'who speaks plaintext is let in');
    const record = await until('it is logged', async () =>
      (await accessRecords(cluster, namespace)).find((each) => each['src.workload'] === 'friend' && each.error),
    );
    t.match(record.error, /maybe a NetworkPolicy is blocking HBONE port 15008/);
    t.match(await hboneBlocked(t, namespace), /15008/, 'a check says so');

    await enforce([{ ports: [{ port: 8080 }, { port: 15008 }] }]);
    for (const who of ['friend', 'near', 'plain']) t.equal((await dial(who, '5s')).ok, 3, `${who} is let in`);
    t.equal(await hboneBlocked(t, namespace), '', 'and a check is content');

    await enforce([{ ports: [{ port: 15008 }], from: [{ podSelector: { matchLabels: { app: 'near' } } }] }]);
    t.equal((await dial('near', '5s')).ok, 3, 'tunnels come from the address of the pod that calls');
    t.equal((await dial('plain', '2s')).ok, 0);
  },
);

function policy(namespace: string, ingress: readonly object[]): object {
  return {
    apiVersion: 'networking.k8s.io/v1',
    kind: 'NetworkPolicy',
    metadata: { name: 'web', namespace },
    spec: { podSelector: { matchLabels: { app: 'web' } }, policyTypes: ['Ingress'], ingress },
  };
}

/** What `meltemi check` finds of the policies of a namespace. It ends with 1 when it finds an error. */
async function hboneBlocked(t: Test, namespace: string): Promise<string> {
  const script = '"$1" check --kubeconfig "$2" --json; echo "status $?"';
  const meltemi = join(import.meta.dirname, '../../../bin/meltemi');
  const output = await sh(['sh', '-c', script, 'sh', meltemi, cluster.kubeconfig], { timeoutMs: 120_000 });
  const [json = '', status] = output.split('status ');
  const findings = JSON.parse(json) as { because: string; objects: string[]; text: string; severity: string }[];
  const errors = findings.some(({ severity }) => severity === 'error');
  t.equal(status?.trim(), errors ? '1' : '0');
  const ours = findings.filter(({ objects }) => objects.includes(`networkpolicy/${namespace}/web`));
  t.ok(ours.every(({ because }) => because === 'hbone-blocked'));
  return ours.map(({ text }) => text).join();
}
