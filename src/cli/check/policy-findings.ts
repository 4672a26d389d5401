import type { ApiObject } from '../../kube/api.js';
import { labelOf } from '../install/objects.js';
import type { Facts, Finding } from './facts.js';

/** Captured pods are reached on 15008 only. A policy that lets their own port in and nothing else cuts them off. */
export function policyFindings({ networkPolicies, namespaces, pods }: Facts): readonly Finding[] {
  return networkPolicies.flatMap((policy) => {
    const { namespace = '', name } = policy.metadata;
    const home = namespaces.find(({ metadata }) => metadata.name === namespace);
    const captured = pods.filter((pod) => isWanted(pod, home) && isSelected(pod, policy));
    return DIRECTIONS.flatMap((direction): Finding[] => {
      if (!blocks(policy, direction)) return [];
      // What any policy of a pod lets through is let through.
      const cut = captured.filter(
        (pod) => !networkPolicies.some((other) => isSelected(pod, other) && lets(other, direction)),
      );
      if (cut.length === 0) return [];
      return [
        {
          because: 'hbone-blocked',
          severity: 'error',
          objects: [`networkpolicy/${namespace}/${name}`],
          text: `NetworkPolicy ${namespace}/${name} lets ${WORDS[direction]} ports through, but not ${HBONE}: ${cut.length} captured pods are cut off`,
          remedy: `allow TCP port ${HBONE} beside the ports that ${name} names: in the mesh every connection arrives there`,
        },
      ];
    });
  });
}

/** By the labels; the pod's own count more than its namespace's. */
export function isWanted(pod: ApiObject, namespace: ApiObject | undefined): boolean {
  if ((pod.spec as { hostNetwork?: boolean } | undefined)?.hostNetwork === true) return false;
  const own = labelOf(pod, MODE) ?? (namespace === undefined ? undefined : labelOf(namespace, MODE));
  return own === 'ambient';
}

function isSelected(pod: ApiObject, policy: ApiObject): boolean {
  const { matchLabels = {}, matchExpressions = [] } = specOf(policy).podSelector ?? {};
  return (
    pod.metadata.namespace === policy.metadata.namespace &&
    Object.entries(matchLabels).every(([name, value]) => labelOf(pod, name) === value) &&
    matchExpressions.every((requirement) => isMet(requirement, labelOf(pod, requirement.key)))
  );
}

function isMet({ operator, values = [] }: Requirement, label: string | undefined): boolean {
  switch (operator) {
    case 'In':
      return label !== undefined && values.includes(label);
    case 'NotIn':
      return label === undefined || !values.includes(label);
    case 'Exists':
      return label !== undefined;
    case 'DoesNotExist':
      return label === undefined;
    default:
      return false;
  }
}

/** Whether it names TCP ports and leaves ours out. A policy that lets nothing through at all is meant so. */
function blocks(policy: ApiObject, direction: Direction): boolean {
  const namesTcp = rulesOf(policy, direction).some(
    ({ ports }) => ports?.some(({ protocol = 'TCP' }) => protocol === 'TCP') === true,
  );
  return namesTcp && !lets(policy, direction);
}

function lets(policy: ApiObject, direction: Direction): boolean {
  return rulesOf(policy, direction).some(
    ({ ports }) => ports === undefined || ports.length === 0 || ports.some(isHbone),
  );
}

/** None where the policy says nothing of that direction. */
function rulesOf(policy: ApiObject, direction: Direction): readonly PolicyRule[] {
  const { ingress, egress, policyTypes } = specOf(policy);
  const types = policyTypes ?? ['Ingress', ...(egress === undefined ? [] : ['Egress'])];
  return (types.includes(direction) ? { Ingress: ingress, Egress: egress }[direction] : undefined) ?? [];
}

function isHbone({ protocol = 'TCP', port, endPort }: PolicyPort): boolean {
  if (protocol !== 'TCP') return false;
  if (port === undefined) return true;
  if (typeof port !== 'number') return false;
  return endPort === undefined ? port === HBONE : port <= HBONE && HBONE <= endPort;
}

function specOf({ spec }: ApiObject): PolicySpec {
  return (spec ?? {}) as PolicySpec;
}

interface PolicySpec {
  readonly podSelector?: {
    readonly matchLabels?: Readonly<Record<string, string>>;
    readonly matchExpressions?: readonly Requirement[];
  };
  readonly policyTypes?: readonly string[];
  readonly ingress?: readonly PolicyRule[];
  readonly egress?: readonly PolicyRule[];
}

interface Requirement {
  readonly key: string;
  readonly operator: string;
  readonly values?: readonly string[];
}

interface PolicyRule {
  readonly ports?: readonly PolicyPort[];
}

interface PolicyPort {
  readonly protocol?: string;
  readonly port?: number | string;
  readonly endPort?: number;
}

const DIRECTIONS = ['Ingress', 'Egress'] as const;
type Direction = (typeof DIRECTIONS)[number];
const WORDS: Readonly<Record<Direction, string>> = { Ingress: 'incoming', Egress: 'outgoing' };
const HBONE = 15008;
const MODE = 'istio.io/dataplane-mode';
