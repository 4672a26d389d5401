import { mkdtempSync, rmSync, statSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { networkInterfaces, tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { serveAdmin } from '../../../src/control/admin.js';
import { json } from '../../../src/lib/http-server.js';
import { createRegistry } from '../../../src/telemetry/metrics.js';

t.test('everybody may see whether and what it is, this machine also how it is', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'meltemi-'));
  t.teardown(() => rmSync(directory, { recursive: true }));
  let pending = ['source'];
  const socket = join(directory, 'admin.sock');
  const servers = await serveAdmin(
    {
      pending: () => pending,
      metrics: createRegistry(),
      status: () => ({ bad: 1 }),
      registry: () => ({ workloads: [] }),
      config: { logLevel: 'info' },
      more: new Map([['GET /ca', () => json({ ca: true })]]),
    },
    { socket, port: await freePort() },
  );
  t.teardown(() => servers.map((server) => server.close()));
  t.equal(statSync(socket).mode & 0o777, 0o600);
  const [, tcp] = servers;
  if (tcp === undefined) throw new Error('nothing listens on a port');
  const { port } = tcp.address() as AddressInfo;
  const ask = async (path: string, host = '127.0.0.1', method = 'GET') => {
    const response = await fetch(`http://${host}:${port}${path}`, { method });
    return { status: response.status, body: await response.text() };
  };
  t.match(await ask('/ready'), { status: 500, body: 'not ready, pending: source\n' });
  pending = [];
  t.match(await ask('/ready'), { status: 200, body: 'ready\n' });
  t.match(JSON.parse((await ask('/version')).body), { name: 'meltemi', version: /^\d+\.\d+\.\d+/ });
  t.match(JSON.parse((await ask('/debug/status')).body), { bad: 1 });
  t.match(JSON.parse((await ask('/debug/configz')).body), { logLevel: 'info' });
  t.match(JSON.parse((await ask('/debug/registryz')).body), { workloads: [] });
  t.match(JSON.parse((await ask('/ca')).body), { ca: true });
  t.equal((await ask('/metrics')).status, 200);
  t.match(await ask('/logging?level=loud', '127.0.0.1', 'POST'), { status: 400 });
  t.match(JSON.parse((await ask('/logging?level=debug&scope=xds', '127.0.0.1', 'POST')).body), { xds: 'debug' });
  t.match(await ask('/nothing'), { status: 404 });
  t.match(await ask('/debug/status', '127.0.0.1', 'DELETE'), { status: 405 });

  const other = Object.values(networkInterfaces())
    .flat()
    .find((address) => address?.family === 'IPv4' && !address.internal)?.address;
  if (other === undefined) return t.comment('this machine has no other address to come from');
  t.match(await ask('/ready', other), { status: 200 });
  for (const path of ['/debug/status', '/debug/registryz', '/debug/configz', '/ca', '/logging']) {
    t.match(await ask(path, other), { status: 403 }, path);
  }
});

async function freePort(): Promise<number> {
  const { createServer } = await import('node:net');
  return new Promise((resolve) => {
    const server = createServer().listen(0, () => {
      const { port } = server.address() as AddressInfo;
      server.close(() => resolve(port));
    });
  });
}
