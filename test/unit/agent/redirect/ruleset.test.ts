import { test } from 'tap';
import { DEFAULT_REDIRECT_PORTS } from '../../../../src/agent/redirect/redirector.js';
import { captureRuleset, releaseRuleset, removalRuleset } from '../../../../src/agent/redirect/ruleset.js';
import { heldToGoldens } from '../../../support/goldens.js';

const ports = DEFAULT_REDIRECT_PORTS;
const none: readonly string[] = [];

const cases: Record<string, string> = {
  'ipv4.nft': captureRuleset({ ipv6: false, nameservers: none }, ports),
  'dual-stack.nft': captureRuleset({ ipv6: true, nameservers: none }, ports),
  'ipv4-dns.nft': captureRuleset({ ipv6: false, nameservers: ['10.96.0.10'] }, ports),
  'dual-stack-dns.nft': captureRuleset({ ipv6: true, nameservers: ['10.96.0.10', 'fd00:96::a'] }, ports),
  'bypass-inbound.nft': captureRuleset({ ipv6: true, nameservers: none, bypassInbound: true }, ports),
  'other-ports.nft': captureRuleset(
    { ipv6: false, nameservers: ['10.96.0.10'] },
    { outbound: 25001, inboundPlain: 25006, inboundHbone: 25008, dns: 25053 },
  ),
  'release.nft': releaseRuleset(),
  'removal.nft': removalRuleset(),
};

heldToGoldens('test/golden/redirect', cases);

test('nameservers on loopback, of a family the pod has not, or unreadable are passed over', async (t) => {
  const text = captureRuleset({ ipv6: false, nameservers: ['127.0.0.53', 'fd00:96::a', 'ns1', '10.96.0.10'] }, ports);
  t.equal(text, cases['ipv4-dns.nft']);
});

test('a nameserver given twice, or in another spelling, makes one set of rules', async (t) => {
  const text = captureRuleset(
    { ipv6: true, nameservers: ['10.96.0.10', '10.96.0.10', 'fd00:96:0::0a', 'fd00:96::a'] },
    ports,
  );
  t.equal(text, cases['dual-stack-dns.nft']);
});

test('each rule says why it is there', async (t) => {
  const rules = Object.values(cases).flatMap((text) =>
    text.split('\n').filter((line) => /^ {4}(?!type )\S/.test(line)),
  );
  t.ok(rules.length > 10);
  t.same(
    rules.filter((line) => !/ comment "[^"]+"$/.test(line)),
    [],
  );
});
