import { test } from 'tap';
import { shallBeCaptured } from '../../../src/lab/capture-rule.js';

const MODE = 'istio.io/dataplane-mode';
const captured = (pod: string | undefined, namespace: string | undefined, more: object = {}) =>
  shallBeCaptured({
    labels: pod === undefined ? {} : { [MODE]: pod },
    namespaceLabels: namespace === undefined ? {} : { [MODE]: namespace },
    annotations: {},
    hostNetwork: false,
    ...more,
  });

test('the label of the pod wins over that of its namespace', async (t) => {
  t.same(
    [
      captured(undefined, undefined),
      captured(undefined, 'ambient'),
      captured('none', 'ambient'),
      captured('ambient', 'none'),
      captured('ambient', undefined),
    ],
    [false, true, false, true, true],
  );
});

test('pods of the host network, and pods with a sidecar, are never captured', async (t) => {
  t.notOk(captured('ambient', 'ambient', { hostNetwork: true }));
  t.notOk(captured('ambient', 'ambient', { annotations: { 'sidecar.istio.io/status': '{}' } }));
});
