import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';

const command = join(import.meta.dirname, '../../../src/cli/control-plane.js');

/** Runs the command in a process of its own; `ready` resolves when it says that it serves. */
function run(config: string) {
  const child = spawn(process.execPath, [
    '--input-type=module',
    '-e',
    `const { runControlPlane } = await import(${JSON.stringify(command)});
     await runControlPlane(${JSON.stringify(config)}).catch((error) => { console.error(error.message); process.exitCode = 1; });`,
  ]);
  let log = '';
  const ready = Promise.withResolvers<void>();
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    log += text;
    if (log.includes('"serving"')) ready.resolve();
  });
  const exit = new Promise<number | null>((resolve) => child.on('exit', (code) => resolve(code)));
  return { child, ready: ready.promise, exit, log: () => log };
}

t.test('serves until it is told to end, and leaves nothing behind', { timeout: 60_000 }, async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'meltemi-'));
  t.teardown(() => rmSync(directory, { recursive: true }));
  const config = join(directory, 'control.yaml');
  const socket = join(directory, 'admin.sock');
  writeFileSync(
    config,
    `source: { directory: ${directory}/manifests }
listen: { tls: "127.0.0.1:0" }
admin: { socket: ${socket}, port: 0 }
ca: { directory: ${directory}/ca }
`,
  );
  const early = run(config);
  // The manifests are not there yet: it waits for them, and can be ended all the same.
  while (!existsSync(socket)) await new Promise((resolve) => setTimeout(resolve, 10));
  early.child.kill('SIGTERM');
  t.equal(await early.exit, 0, early.log());

  t.ok(existsSync(join(directory, 'ca/root-cert.pem')), 'the roots for agents are there from the start');
  rmSync(config);
  writeFileSync(
    config,
    `source: { directory: ${directory} }\nlisten: { tls: "127.0.0.1:0" }
admin: { socket: ${socket}, port: 0 }\nca: { directory: ${directory}/ca }\n`,
  );
  const { child, ready, exit, log } = run(config);
  await ready;
  child.kill('SIGTERM');
  t.equal(await exit, 0, log());
  t.match(log(), /"stopped"/);
  t.notOk(existsSync(socket));
});

t.test('ends at once with what is wrong with its configuration', { timeout: 60_000 }, async (t) => {
  const { exit, log } = run('/nowhere/control.yaml');
  t.equal(await exit, 1);
  t.match(log(), /configuration \/nowhere\/control\.yaml cannot be read/);
});
