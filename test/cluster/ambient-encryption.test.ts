import { randomBytes } from 'node:crypto';
import t from 'tap';
import { Capture, choosesTls13, type Packet, shows } from '../support/capture.js';
import { AMBIENT, captured, ipOf, OUT, podOn } from './harness/in-mesh.js';
import { appService } from './harness/manifests.js';
import { meshCluster } from './harness/mesh.js';
import { applyAndWait, awaitService, clientIn, namespaceFor } from './harness/tap-cluster.js';

/** What is on the nodes' links, seen and not said: packets are captured on both nodes, on every interface. Some 15 s. */
t.setTimeout(300_000);
const cluster = await meshCluster();
const { own } = cluster;
const skip = own === undefined ? 'needs machines of our own' : false;
const [first = '', second = first] = await cluster.nodes();

t.test('between captured pods no byte is in plaintext and no connection outside a tunnel', { skip }, async (t) => {
  const namespace = await namespaceFor(t, cluster, AMBIENT);
  await applyAndWait(
    cluster,
    ...['near', 'far'].map((name) => appService({ namespace, name })),
    podOn(first, { namespace, name: 'client' }),
    podOn(first, { namespace, name: 'plain', labels: OUT }),
    podOn(first, { namespace, name: 'near' }),
    podOn(second, { namespace, name: 'far' }),
  );
  await captured(cluster, namespace, 'client', 'near', 'far');
  for (const name of ['near', 'far']) await awaitService(cluster, namespace, 'plain', `http://${name}/`);
  const [client = '', plain = '', near = '', far = ''] = await Promise.all(
    ['client', 'plain', 'near', 'far'].map((name) => ipOf(cluster, namespace, name)),
  );
  const captures = await Promise.all(
    [first, second].map((node) =>
      Capture.start(`/proc/${own?.node(node).pid}/ns/net`, `tcp and (host ${client} or host ${plain})`),
    ),
  );
  t.teardown(async () => {
    for (const each of captures) await each.stop();
  });
  // Only now does the client dial: so the handshakes are seen.
  for (const name of ['near', 'far']) await awaitService(cluster, namespace, 'client', `http://${name}/`);
  const secret = `secret-${randomBytes(8).toString('hex')}`;
  for (const name of ['near', 'far']) {
    for (const args of [
      ['--url', `http://${name}/${secret}`, '--count', '20', '--parallel', '4'],
      ['--url', `http://${name}/${secret}`, '--count', '5', '--reuse'],
      ['--greeting', `${name}:9001`],
    ]) {
      t.same((await clientIn(cluster, namespace, 'client', args)).errors, {}, args.join(' '));
    }
  }
  const open = `open-${randomBytes(8).toString('hex')}`;
  t.equal((await clientIn(cluster, namespace, 'plain', ['--url', `http://far/${open}`])).ok, 1);
  for (const each of captures) await each.until((packets) => shows(packets, open));

  for (const [at, server] of [near, far].entries()) {
    // What leaves for the far one passes both nodes, what stays on the node only the first.
    for (const { packets } of captures.slice(0, at + 1)) {
      const between = packets.filter((each) => ends(each, client, server));
      t.ok(between.length > 0, 'there are packets');
      const outside = between.filter(({ srcPort, dstPort }) => srcPort !== 15008 && dstPort !== 15008);
      t.same(outside, [], 'all of them of tunnels');
      t.ok(choosesTls13(between), 'TLS 1.3');
      t.notOk(shows(between, 'GET /'), 'no request');
    }
  }
  for (const { packets } of captures) t.notOk(shows(packets, secret), 'nowhere at all');
});

function ends({ srcIp, dstIp }: Packet, one: string, other: string): boolean {
  return (srcIp === one && dstIp === other) || (srcIp === other && dstIp === one);
}
