import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { test } from 'tap';
import { blockEventLoop } from '../../support/agent-loop.js';

test('the event loop of another process is blocked, twice, and runs on', async (t) => {
  const script = `
    let last = performance.now(), longest = 0;
    setInterval(() => { longest = Math.max(longest, performance.now() - last); last = performance.now(); }, 5);
    process.on('SIGTERM', () => { console.log(longest); process.exit(0); });
    console.log('up');`;
  const child = spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'ignore'] });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    output += text;
  });
  await once(child.stdout, 'data');
  t.ok((await blockEventLoop(child.pid ?? 0, 300)) >= 300);
  t.ok((await blockEventLoop(child.pid ?? 0, 500)) >= 500);
  child.kill('SIGTERM');
  await once(child, 'close');
  t.ok(Number(output.split('\n')[1]) >= 490, `the longest pause seen inside: ${output}`);
});
