/** Stops the event loop of a running agent for a while, from outside, with the debugger that every Node has. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { inside } from './worker.js';

/** Resolves when the loop runs again, with how long it stood still. */
export async function blockEventLoop(pid: number, ms: number): Promise<number> {
  process.kill(pid, 'SIGUSR1');
  const script = join(import.meta.dirname, 'block-loop.js');
  const [file = '', ...args] = inside({ netns: `/proc/${pid}/ns/net` }, [process.execPath, script, String(ms)]);
  const { stdout } = await promisify(execFile)(file, args, { timeout: ms + 20_000 });
  return (JSON.parse(stdout) as { ms: number }).ms;
}
