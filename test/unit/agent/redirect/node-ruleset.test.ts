import { test } from 'tap';
import { bridgeRuleset, elementChanges, nodeRuleset } from '../../../../src/agent/redirect/node-ruleset.js';
import { heldToGoldens } from '../../../support/goldens.js';

const facts = {
  captured: ['10.0.1.2', '10.0.1.3', 'fd00:1::2'],
  held: ['10.0.1.2', 'fd00:1::2'],
  mesh: ['10.0.1.2', '10.0.2.2', '10.96.0.5', 'fd00:1::2'],
  nameservers: ['10.96.0.10'],
  local: ['10.0.1.2', 'fd00:1::2'],
};

const cases: Record<string, string> = {
  'full.nft': nodeRuleset('meltemi-node', 15008, facts),
  'keeps-sets.nft': nodeRuleset('meltemi-node-next', 25008, {}),
  'bridge.nft': bridgeRuleset('meltemi-node', 15008, facts),
  'bridge-keeps-sets.nft': bridgeRuleset('meltemi-node-next', 25008, {}),
};

heldToGoldens('test/golden/node-rules', cases);

test('each rule says why it is there', async (t) => {
  const rules = Object.values(cases).flatMap((text) => text.split('\n').filter((line) => line.startsWith('add rule')));
  t.ok(rules.length > 20);
  t.same(
    rules.filter((line) => !/ comment "[^"]+"$/.test(line)),
    [],
  );
});

test('elements are added in one line for each family, and removed even where they are not', async (t) => {
  t.same(elementChanges('T', 'captured', ['10.0.0.1', '10.0.0.2', 'fd00::1'], ['10.0.0.9']), [
    'add element inet T captured-ip { 10.0.0.9 }',
    'delete element inet T captured-ip { 10.0.0.9 }',
    'add element inet T captured-ip { 10.0.0.1, 10.0.0.2 }',
    'add element inet T captured-ip6 { fd00::1 }',
  ]);
  t.same(elementChanges('T', 'local', ['10.0.0.1'], []), ['add element bridge T local-ip { 10.0.0.1 }']);
  t.same(elementChanges('T', 'mesh', [], []), []);
});
