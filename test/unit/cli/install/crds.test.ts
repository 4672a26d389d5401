import t from 'tap';
import { isNewer, planCrds } from '../../../../src/cli/install/crds.js';
import type { ApiObject } from '../../../../src/kube/api.js';

const ours: ApiObject = { metadata: { name: 'things.example.io' } };
const there = (annotations: object, labels: object = {}): ApiObject => ({
  metadata: { name: 'things.example.io', annotations, labels },
});
const outcome = (found: readonly ApiObject[]) => {
  const [plan] = planCrds([ours], found, '1.2.0');
  return `${plan?.action} ${plan?.because}`;
};

t.test('what is missing is created', async (t) => {
  t.equal(outcome([]), 'create missing');
});

t.test('what an older or the same version of ours brought is updated', async (t) => {
  t.equal(outcome([there({ 'meltemi.io/version': '1.1.9' })]), 'update ours');
  t.equal(outcome([there({ 'meltemi.io/version': '1.2.0' })]), 'update ours');
});

t.test('what a newer version brought is never taken back', async (t) => {
  t.equal(outcome([there({ 'meltemi.io/version': '1.10.0' })]), 'keep newer-there');
});

t.test('what somebody else brought is left to them', async (t) => {
  t.equal(outcome([there({})]), 'keep owned-by-another');
  t.equal(
    outcome([there({ 'meltemi.io/version': '1.0.0' }, { 'app.kubernetes.io/managed-by': 'Helm' })]),
    'keep owned-by-another',
  );
});

t.test('versions are compared by number', async (t) => {
  t.ok(isNewer('1.10.0', '1.9.9'));
  t.notOk(isNewer('1.2.3', '1.2.3'));
  t.ok(isNewer('5.4.0', '4.18.0-553.el8.x86_64'));
  t.notOk(isNewer('5.4.0', '6.18.44-fc'));
});
