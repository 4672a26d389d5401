import { Readable } from 'node:stream';
import t from 'tap';
import type { WatchEvent } from '../../../src/kube/api.js';
import { readWatch } from '../../../src/kube/watch-stream.js';

async function read(pieces: readonly (string | Buffer)[]): Promise<{ events: WatchEvent[]; error: unknown }> {
  const events: WatchEvent[] = [];
  try {
    for await (const event of readWatch(Readable.from(pieces, { objectMode: false }), 'WATCH pods')) events.push(event);
    return { events, error: undefined };
  } catch (error) {
    return { events, error };
  }
}

const added = '{"type":"ADDED","object":{"metadata":{"name":"ä"}}}\n';
const bookmark = '{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}\n';

t.test('reads a line an event, however the bytes come', async (t) => {
  const bytes = Buffer.from(added + bookmark + added);
  for (const size of [1, 7, 1000]) {
    const pieces = Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) =>
      bytes.subarray(i * size, (i + 1) * size),
    );
    const { events, error } = await read(pieces);
    t.equal(error, undefined);
    t.match(events, [
      { type: 'added', object: { metadata: { name: 'ä' } } },
      { type: 'bookmark', resourceVersion: '9' },
      { type: 'added' },
    ]);
  }
});

t.test('half a line at the end is no event', async (t) => {
  const { events, error } = await read([added, added.slice(0, 20)]);
  t.equal(events.length, 1);
  t.equal(error, undefined);
});

t.test('an error in place of an event ends it, after the events before it', async (t) => {
  const { events, error } = await read([
    `${added}{"type":"ERROR","object":{"code":410,"reason":"Expired","message":"too old"}}\n${added}`,
  ]);
  t.equal(events.length, 1);
  t.match(error, { status: 410, reason: 'Expired', message: 'WATCH pods: 410 Expired: too old' });
});

t.test('what is no JSON, or of an unknown type, is an error that shows it', async (t) => {
  t.match((await read(['<html>\n'])).error, { status: 0, message: /no JSON: <html>/ });
  t.match((await read(['{"type":"MOVED"}\n'])).error, { status: 0, message: /unknown type "MOVED"/ });
});
