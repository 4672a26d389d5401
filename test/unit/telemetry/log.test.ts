import t from 'tap';
import { levels, logger, setLevel, setLogSink } from '../../../src/telemetry/log.js';

const lines: Record<string, unknown>[] = [];
setLogSink((line) => lines.push(JSON.parse(line)));

t.beforeEach(() => {
  lines.length = 0;
  setLevel('info');
});

t.test('a line says when, how bad, which scope and what', async (t) => {
  logger('xds').child({ peer: 'node-1' }).info({ type: 'Address' }, 'subscribed');
  t.match(lines, [
    { level: 'info', time: /^\d{4}-.*Z$/, scope: 'xds', peer: 'node-1', type: 'Address', msg: 'subscribed' },
  ]);
});

t.test('the level of one scope changes live, for children made before as well', async (t) => {
  const child = logger('enroll').child({ pod: 'a' });
  const other = logger('dns');
  child.debug('hidden');
  setLevel('debug', 'enroll');
  child.debug('shown');
  other.debug('hidden too');
  t.match(
    lines.map((line) => line.msg),
    ['shown'],
  );
  t.equal(levels().enroll, 'debug');
  t.equal(levels().dns, 'info');
});

t.test('the level of all scopes holds for scopes that come later', async (t) => {
  setLevel('warn');
  logger('newcomer').info('hidden');
  logger('newcomer').warn('shown');
  t.match(
    lines.map((line) => line.msg),
    ['shown'],
  );
});

t.test('an unknown level is refused by name', async (t) => {
  t.throws(() => setLevel('loud'), /log level "loud" is none of trace, debug/);
});

t.test('tokens and keys do not reach the log, errors come with their stack', async (t) => {
  logger('ca').error(
    { token: 'secret', request: { authorization: 'Bearer secret' }, error: new Error('no') },
    'refused',
  );
  t.notMatch(JSON.stringify(lines), /secret/);
  t.match(lines, [{ error: { message: 'no', stack: /log\.test/ } }]);
});
