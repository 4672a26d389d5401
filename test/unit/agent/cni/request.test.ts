import t from 'tap';
import { hostPath } from '../../../../src/agent/cni/host-path.js';
import { parseCniRequest } from '../../../../src/agent/cni/request.js';

const GOOD = { containerId: 'c', namespace: 'shop', name: 'web', uid: 'u', netns: '/n', ips: ['10.0.0.1'], waitMs: 5 };

t.test('a request is read, its addresses in their canonical form', async (t) => {
  const parsed = parseCniRequest(JSON.stringify({ ...GOOD, ips: ['FD00::0:1'], infraContainerId: 'c', newer: [] }));
  t.same(parsed, { ok: true, value: { ...GOOD, ips: ['fd00::1'] } });
  t.match(parseCniRequest(JSON.stringify({ ...GOOD, waitMs: 1e12 })), { value: { waitMs: 200_000 } });
  t.match(parseCniRequest('{"containerId":"c","namespace":"n","name":"p"}'), {
    value: { netns: '', ips: [], uid: '' },
  });
});

t.test('a bad request is told what is bad', async (t) => {
  const cases: [unknown, RegExp][] = [
    [[], /no object/],
    [null, /no object/],
    [{ ...GOOD, name: '' }, /names no pod/],
    [{ ...GOOD, name: 7 }, /name is no good/],
    [{ ...GOOD, netns: 'x'.repeat(5000) }, /netns is no good/],
    [{ ...GOOD, netns: 'relative' }, /is no path/],
    [{ ...GOOD, ips: 'x' }, /no list/],
    [{ ...GOOD, ips: ['10.0.0.1', 'x'] }, /names "x", which is no address/],
    [{ ...GOOD, ips: [5] }, /no address/],
    [{ ...GOOD, ips: Array(17).fill('10.0.0.1') }, /no list/],
    [{ ...GOOD, waitMs: -1 }, /waitMs/],
    [{ ...GOOD, waitMs: '5' }, /waitMs/],
  ];
  for (const [body, error] of cases) t.match(parseCniRequest(JSON.stringify(body)), { ok: false, error });
  t.match(parseCniRequest('{'), { ok: false, error: /no JSON/ });
});

t.test('a path of the node is found under its root, wherever its links lead', async (t) => {
  const links: Record<string, string> = {
    '/host/var/run': '/run',
    '/host/run/here': '../other/./x',
    '/host/loop': '/loop',
    '/host/up': '../../../etc',
  };
  const readlink = (path: string) => {
    const target = links[path];
    if (target === undefined) throw new Error('EINVAL');
    return target;
  };
  const found = (path: string) => hostPath('/host', path, readlink);
  t.equal(found('/var/run/netns/cni-1'), '/host/run/netns/cni-1');
  t.equal(found('/run/netns/cni-1'), '/host/run/netns/cni-1');
  t.equal(found('/var/run/here/n'), '/host/other/x/n');
  t.equal(found('/up/passwd'), '/host/etc/passwd', 'nothing leads out');
  t.equal(found('/../../x'), '/host/x');
  t.equal(found('/loop/x'), '/host/loop/x', 'a loop ends');
});
