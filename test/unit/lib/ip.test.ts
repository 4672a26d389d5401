import t from 'tap';
import {
  canonicalIp,
  formatHostPort,
  ipFromBytes,
  ipToBytes,
  makePrefix,
  parseHostPort,
  parsePrefix,
  prefixContains,
} from '../../../src/lib/ip.js';

t.test('canonicalises addresses and refuses what is none', async (t) => {
  t.equal(canonicalIp('10.0.0.1'), '10.0.0.1');
  t.equal(canonicalIp('FD00:0:0::1'), 'fd00::1');
  t.equal(canonicalIp('::ffff:10.0.0.1'), '10.0.0.1', 'a v4-mapped address is v4');
  for (const bad of ['', '10.0.0', '10.0.0.256', 'fd00::1::2', 'host', '10.0.0.1/8', '0x0a000001', '1']) {
    t.equal(canonicalIp(bad), undefined, bad);
  }
});

t.test('turns addresses into bytes and back', async (t) => {
  t.same(ipToBytes('10.1.2.3'), Uint8Array.of(10, 1, 2, 3));
  t.equal(ipFromBytes(Uint8Array.of(10, 1, 2, 3)), '10.1.2.3');
  const v6 = ipToBytes('fd00::7');
  t.equal(v6?.length, 16);
  t.equal(ipFromBytes(v6 ?? new Uint8Array()), 'fd00::7');
  t.equal(ipFromBytes(new Uint8Array(5)), undefined);
});

t.test('parses prefixes and clears the host bits', async (t) => {
  t.same(parsePrefix('10.1.2.3/12'), { ip: '10.0.0.0', length: 12 });
  t.same(parsePrefix('10.1.2.3'), { ip: '10.1.2.3', length: 32 });
  t.same(parsePrefix('fd00:1:2::9/32'), { ip: 'fd00:1::', length: 32 });
  t.same(makePrefix('10.1.2.3', 0), { ip: '0.0.0.0', length: 0 });
  for (const bad of ['10.0.0.0/33', '10.0.0.0/-1', '10.0.0.0/', 'fd00::/129', 'x/8'])
    t.equal(parsePrefix(bad), undefined, bad);
});

t.test('a prefix contains only addresses of its own family', async (t) => {
  const ten = { ip: '10.0.0.0', length: 8 };
  t.ok(prefixContains(ten, '10.255.0.1'));
  t.notOk(prefixContains(ten, '11.0.0.1'));
  t.notOk(prefixContains(ten, 'fd00::1'));
  t.ok(prefixContains({ ip: '::', length: 0 }, 'fd00::1'));
});

t.test('splits host and port, with brackets around v6', async (t) => {
  t.same(parseHostPort('10.0.0.1:80'), { host: '10.0.0.1', port: 80 });
  t.same(parseHostPort('[fd00::1]:80'), { host: 'fd00::1', port: 80 });
  t.same(parseHostPort('web.shop.svc:8080'), { host: 'web.shop.svc', port: 8080 });
  for (const bad of ['80', ':80', 'web', 'web:', 'web:0', 'web:65536', 'fd00::1:80', 'we b:80']) {
    t.equal(parseHostPort(bad), undefined, bad);
  }
  t.equal(formatHostPort('fd00::1', 80), '[fd00::1]:80');
});
