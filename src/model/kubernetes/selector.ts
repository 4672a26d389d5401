import type { Fields } from './fields.js';
import type { Labels, Selector } from './metadata.js';

/** What of Istio's policies says whom they are for: a selector of workloads, or references to what is in their way. */

export interface TargetRef {
  /** Empty: the core group. */
  readonly group: string;
  readonly kind: string;
  readonly name: string;
}

/** `selector.matchLabels` and `workloadSelector.labels`. Undefined when there is no selector; `{}` selects by nothing. */
export function readSelector(spec: Fields, name: string, labels: 'matchLabels' | 'labels'): Selector {
  const selector = spec.optionalObject(name);
  if (selector === undefined) return undefined;
  const wanted = selector.stringMap(labels);
  for (const [key, value] of Object.entries(wanted)) {
    if (isSelectable(key, value)) continue;
    if (key === '') selector.problem(labels, 'has an empty key');
    if (key.includes('*') || value.includes('*')) {
      selector.problem(`${labels}.${key}`, 'has a *: labels are selected by whole values only');
    } else if (key !== '') {
      selector.problem(`${labels}.${key}`, `is longer than the ${MAX_LABEL_LENGTH} characters that a label may have`);
    }
  }
  return wanted;
}

/** Whether a selector may ask for this label. */
export function isSelectable(key: string, value: unknown): boolean {
  if (typeof value !== 'string' || value.length > MAX_LABEL_LENGTH) return false;
  return key !== '' && !key.includes('*') && !value.includes('*');
}

/** `targetRef` and `targetRefs`, which exclude each other and a selector. */
export function readTargetRefs(spec: Fields): readonly TargetRef[] {
  const given = ['selector', 'targetRef'].filter((name) => spec.has(name));
  if (spec.count('targetRefs') > 0) given.push('targetRefs');
  for (const other of given.slice(1)) spec.problem(given[0] ?? '', `and ${other} exclude each other`);
  const one = spec.optionalObject('targetRef');
  if (spec.count('targetRefs') > MAX_TARGET_REFS) {
    spec.problem('targetRefs', `has ${spec.count('targetRefs')} entries, more than ${MAX_TARGET_REFS}`);
    return [];
  }
  return [...(one === undefined ? [] : [readTargetRef(one)]), ...spec.objects('targetRefs', readTargetRef)];
}

function readTargetRef(ref: Fields): TargetRef {
  const [group, kind, name] = [ref.string('group'), ref.requiredString('kind'), ref.requiredString('name')];
  if (ref.string('namespace') !== '') {
    ref.problem(
      'namespace',
      'must be left out: a policy cannot refer to another namespace, and its own goes without saying',
    );
  }
  const target = `${group === 'core' ? '' : group}/${kind}`;
  if (kind !== '' && !TARGET_KINDS.has(target)) {
    ref.problem('kind', `is ${JSON.stringify(kind)} of ${group === '' ? 'the core group' : group}, none of ${TARGETS}`);
  }
  return { group, kind, name };
}

/** What is wrong with labels as such: what no label can be can never be selected either. Sentences. */
export function impossibleLabels(labels: Labels): readonly string[] {
  return Object.entries(labels)
    .filter(([key, value]) => !LABEL_KEY.test(key) || !LABEL_VALUE.test(value))
    .map(([key, value]) => `${key}=${value}`);
}

const MAX_LABEL_LENGTH = 63;
const MAX_TARGET_REFS = 16;
const TARGET_KINDS: ReadonlySet<string> = new Set([
  '/Service',
  'networking.istio.io/ServiceEntry',
  'gateway.networking.k8s.io/Gateway',
  'gateway.networking.k8s.io/GatewayClass',
]);
const TARGETS = 'Service, ServiceEntry (networking.istio.io), Gateway and GatewayClass (gateway.networking.k8s.io)';
const LABEL_KEY = /^(?:[a-zA-Z0-9][-a-zA-Z0-9.]{0,251}[a-zA-Z0-9]?\/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$/;
const LABEL_VALUE = /^(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$/;
