import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { test } from 'tap';
import { Prober, pythonFile } from '../../support/prober.js';

const PORT = 18431;
const target = { host: '127.0.0.1', port: PORT };

test('the client and the server of the mesh tests understand each other without a mesh', async (t) => {
  const server = spawn('python3', ['-u', pythonFile('server.py'), 'only', String(PORT)], { stdio: 'inherit' });
  const prober = new Prober('prober', {});
  t.teardown(async () => {
    await prober.close();
    server.kill('SIGKILL');
    await once(server, 'exit');
  });
  let first = await prober.probe(target);
  while (first.how === 'refused') first = await prober.probe(target);

  t.match(first, { outcome: 'connected', server: 'only', remote: `127.0.0.1:${PORT}` });
  t.equal(first.peer, first.local, 'the server sees the address of the client');
  t.match(await prober.probe({ host: '127.0.0.1', port: 1 }), { outcome: 'refused', how: 'refused' });

  t.match(await prober.upload({ ...target, bytes: 1_000_001 }), { bytes: 1_000_001, same: true });
  t.match(await prober.download({ ...target, bytes: 1_000_001 }), { bytes: 1_000_001, same: true });
  t.match(await prober.churn({ ...target, count: 50 }), { ok: 50, servers: { only: 50 } });

  const half = await prober.open(target);
  await half.tell('eof');
  const { sum, sent } = await half.push(100_000);
  await half.halfClose();
  t.equal(await half.line(), `sum ${sent} ${sum}`);
  t.match(await half.end(), { how: 'eof' });

  const reset = await prober.open(target);
  await reset.tell('reset');
  t.match(await reset.end(), { how: 'reset' });

  const watched = await prober.open(target);
  t.equal(await watched.ask('watch w'), 'ok');
  await watched.close({ reset: true });
  const asking = await prober.open(target);
  let fate = await asking.ask('fate w');
  while (fate === 'open') fate = await asking.ask('fate w');
  t.equal(fate, `reset 0 ${createHash('sha256').digest('hex')}`);

  const stalled = await prober.open(target);
  await stalled.tell('stall s');
  const pushed = await stalled.push(100_000_000, { timeout: 0.3 });
  t.equal(pushed.blocked, true);
  t.equal(await asking.ask('resume s'), 'ok');
  await stalled.halfClose();
  t.equal(await stalled.line(), `sum ${pushed.sent} ${pushed.sum}`);

  const streams = await prober.streams({ ...target, workers: 2 });
  let progress = await streams.progress();
  while (progress.bytes < 500_000) progress = await streams.progress();
  t.match(await streams.stop(), { streams: 2, wrong: 0, cut: 0 });
});
