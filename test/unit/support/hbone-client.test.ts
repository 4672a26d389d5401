import type { AddressInfo } from 'node:net';
import { createServer } from 'node:net';
import { test } from 'tap';
import { TestCa } from '../../support/certificates.js';
import { HbonePeer } from '../../support/hbone-client.js';

test('the foreign peer tunnels to itself, and tells who it was', async (t) => {
  using ca = new TestCa();
  using other = new TestCa();
  const alice = { ...ca.issue({ uris: ['spiffe://cluster.local/ns/a/sa/alice'] }), ca: ca.root };
  const server = { ...ca.issue({ uris: ['spiffe://cluster.local/ns/a/sa/server'] }), ca: ca.root };
  const stranger = { ...other.issue({ uris: ['spiffe://cluster.local/ns/a/sa/alice'] }), ca: ca.root };
  const late = {
    ...ca.issue({ uris: ['spiffe://cluster.local/ns/a/sa/alice'], notAfter: new Date(Date.now() - 1000) }),
  };
  const app = createServer((socket) => socket.end('hello'));
  await new Promise<void>((resolve) => app.listen(0, '127.0.0.1', resolve));
  const peer = new HbonePeer('peer', {});
  t.teardown(async () => {
    await peer.close();
    app.close();
  });

  const forwardPort = (app.address() as AddressInfo).port;
  const { port = 0 } = await peer.listen({ address: '127.0.0.1', port: 0, identity: server, forwardPort });
  const target = { address: '127.0.0.1', port, authority: '10.0.0.1:80', expect: 5 };

  t.match(await peer.connect({ ...target, identity: alice }), { outcome: 'connected', status: 200, received: 'hello' });
  t.match(await peer.served(), [{ ':authority': '10.0.0.1:80', peer: 'URI:spiffe://cluster.local/ns/a/sa/alice' }]);
  t.match(await peer.connect({ ...target, identity: stranger }), { outcome: 'refused' });
  t.match(await peer.connect({ ...target, identity: late }), { outcome: 'refused' });
  t.match(await peer.connect(target), { outcome: 'refused' });
  const mistaken = { ...alice, expect: 'spiffe://cluster.local/ns/a/sa/other' };
  t.match(await peer.connect({ ...target, identity: mistaken }), { outcome: 'refused', error: /sa\/server/ });
  t.match(await peer.raw({ ...target, identity: alice, frames: ['00'.repeat(30)] }), { outcome: 'connected' });
  t.match(ca.revocationList([alice]), /crl\.pem$/);
});
