import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { json, jsonInPieces, type Route, serveHttp } from '../../../src/lib/http-server.js';
import { getOverSocket } from '../../../src/lib/unix-http.js';

async function serve(t: Test, routes: Readonly<Record<string, Route>>): Promise<string> {
  // The path of a socket must be short.
  const directory = mkdtempSync(join(tmpdir(), 'http-'));
  const path = join(directory, 's');
  const server = await serveHttp(new Map(Object.entries(routes)), { path });
  t.teardown(() => {
    server.close();
    rmSync(directory, { recursive: true });
  });
  return path;
}

t.test('answers by method and path, and says what there is', async (t) => {
  const path = await serve(t, { 'GET /a': () => ({ body: 'hello' }), 'POST /b': () => ({ body: 'done' }) });
  t.strictSame(await getOverSocket(path, '/a?x=1'), { status: 200, body: 'hello' });
  t.match(await getOverSocket(path, '/b'), { status: 405, body: /only POST \/b/ });
  t.match(await getOverSocket(path, '/c'), { status: 404, body: /GET \/a/ });
});

t.test('a route that throws is an answer of 500', async (t) => {
  const path = await serve(t, {
    'GET /': () => {
      throw new Error('out of order');
    },
  });
  t.strictSame(await getOverSocket(path, '/'), { status: 500, body: 'out of order\n' });
});

t.test('a later server on the same path replaces the first, and outlives it', async (t) => {
  const path = await serve(t, { 'GET /': () => ({ body: 'first' }) });
  const first = await serveHttp(new Map<string, Route>([['GET /', () => ({ body: 'second' })]]), { path });
  const second = await serveHttp(new Map<string, Route>([['GET /', () => ({ body: 'third' })]]), { path });
  await new Promise((resolve) => first.close(resolve));
  t.match(await getOverSocket(path, '/'), { body: 'third' });
  second.close();
  t.notOk(existsSync(path), 'the last removes the path');
});

t.test('big integers become text', async (t) => {
  t.equal(json({ n: 2n ** 60n }).body, '{\n  "n": "1152921504606846976"\n}\n');
});

t.test('an object in pieces is the same object', async (t) => {
  function* items(count: number): Generator<unknown> {
    for (let i = 0; i < count; i++) yield { i, text: 'x'.repeat(100) };
  }
  const path = await serve(t, {
    'GET /': () =>
      jsonInPieces([
        ['none', items(0)],
        ['many', items(5000)],
        ['left out', undefined],
        ['list', [1, 2]],
      ]),
    'GET /empty': () => jsonInPieces([]),
  });
  const { body } = await getOverSocket(path, '/');
  t.strictSame(JSON.parse(body), { none: [], many: [...items(5000)], list: [1, 2] });
  t.strictSame(JSON.parse((await getOverSocket(path, '/empty')).body), {});
});
