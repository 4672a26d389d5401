import fc from 'fast-check';
import t from 'tap';
import { allocateAddresses } from '../../../../src/control/mesh/auto-addresses.js';

t.test('addresses lie in their blocks, are unique, and do not depend on the order of asking', async (t) => {
  const requests = Array.from({ length: 5000 }, (_, i) => ({ key: `ns/entry/${i}.example`, createdAtMs: i % 3 }));
  const addresses = allocateAddresses(requests);
  t.equal(new Set(addresses.map(({ ipv4 }) => ipv4)).size, 5000);
  t.equal(new Set(addresses.map(({ ipv6 }) => ipv6)).size, 5000);
  for (const { ipv4, ipv6 } of addresses) {
    if (!/^240\.240\.\d+\.\d+$/.test(ipv4) || !/^2001:2::[0-9a-f]+$/.test(ipv6)) t.fail(`${ipv4} ${ipv6}`);
    if (ipv4 === '240.240.0.0' || ipv4 === '240.240.255.255') t.fail(`${ipv4} is no host's`);
  }
  fc.assert(
    fc.property(fc.shuffledSubarray(requests.slice(0, 50), { minLength: 50 }), (shuffled) => {
      t.strictSame(allocateAddresses(shuffled), allocateAddresses(requests.slice(0, 50)));
    }),
    { numRuns: 20 },
  );
});

t.test('who came first keeps its address when others come', async (t) => {
  const old = Array.from({ length: 3000 }, (_, i) => ({ key: `ns/old/${i}`, createdAtMs: 1 }));
  const young = Array.from({ length: 3000 }, (_, i) => ({ key: `a/young/${i}`, createdAtMs: 2 }));
  const before = new Map(allocateAddresses(old).map((each) => [each.key, each.ipv4]));
  const after = new Map(allocateAddresses([...young, ...old]).map((each) => [each.key, each.ipv4]));
  t.ok([...before].every(([key, ipv4]) => after.get(key) === ipv4));
});

t.test('a full block gives what it has and ends', async (t) => {
  const requests = Array.from({ length: 70_000 }, (_, i) => ({ key: `${i}`, createdAtMs: 0 }));
  t.equal(new Set(allocateAddresses(requests).map(({ ipv4 }) => ipv4)).size, 2 ** 16 - 2);
});
