/**
 * Blocks the event loop of a Node process that listens for a debugger on 127.0.0.1:9229 (after SIGUSR1), then closes
 * the debugger again. Usage: block-loop.js MS. Prints how long the loop stood still. No hook in the program is needed.
 */
const blockMs = Number(process.argv[2]);
const INSPECTOR = 'http://127.0.0.1:9229/json/list';

const targets = (await (await untilAnswered()).json()) as { webSocketDebuggerUrl: string }[];
const socket = new WebSocket(targets[0]?.webSocketDebuggerUrl ?? '');
await new Promise((resolve, reject) => {
  socket.addEventListener('open', resolve);
  socket.addEventListener('error', () => reject(new Error('the debugger does not take the connection')));
});
const stoodStill = await evaluate(
  `(() => { const from = performance.now(); while (performance.now() - from < ${blockMs}) ; return performance.now() - from; })()`,
);
console.log(JSON.stringify({ ms: Math.round(Number(stoodStill)) }));
// The inspector ends with this call, so that no answer comes.
send(2, `process.getBuiltinModule('node:inspector').close()`);
socket.addEventListener('close', () => process.exit(0));
setTimeout(() => process.exit(0), 2000);

function evaluate(expression: string): Promise<unknown> {
  send(1, expression);
  return new Promise((resolve) => {
    socket.addEventListener('message', ({ data }) => {
      const message = JSON.parse(String(data)) as { id?: number; result?: { result?: { value?: unknown } } };
      if (message.id === 1) resolve(message.result?.result?.value);
    });
  });
}

function send(id: number, expression: string): void {
  socket.send(JSON.stringify({ id, method: 'Runtime.evaluate', params: { expression, returnByValue: true } }));
}

async function untilAnswered(): Promise<Response> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await fetch(INSPECTOR);
    } catch (error) {
      if (attempt > 100) throw error;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}
