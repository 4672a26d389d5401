import t from 'tap';
import { Readiness } from '../../../../src/agent/admin/readiness.js';
import { readinessRoutes } from '../../../../src/agent/admin/routes.js';

t.test('not ready until every task is done, and says which are not', async (t) => {
  const readiness = new Readiness();
  const synced = readiness.task('xds-synced');
  let valid = false;
  readiness.condition('certificates', () => valid);
  const page = () => readinessRoutes(readiness).get('GET /healthz/ready')?.(new URL('http://x/'), {} as never);
  t.match(page(), { status: 500, body: 'not ready, pending: xds-synced, certificates\n' });
  synced();
  t.match(page(), { status: 500, body: 'not ready, pending: certificates\n' });
  valid = true;
  t.match(page(), { body: 'ready\n' });
  valid = false;
  t.strictSame(readiness.pending(), ['certificates'], 'a condition can become pending again');
});

t.test('what is wrong is said where that is known', async (t) => {
  const readiness = new Readiness();
  let problem = 'no conflist';
  readiness.problem('cni-plugin', () => problem);
  t.strictSame(readiness.pending(), ['cni-plugin (no conflist)']);
  problem = '';
  t.strictSame(readiness.pending(), []);
});
