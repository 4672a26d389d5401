import { isNewer } from '../install/crds.js';
import { labelOf } from '../install/objects.js';
import type { Facts, Finding } from './facts.js';

/** Of the API server and the user. */
export function clusterFindings({
  kubernetes,
  forbidden,
  serverAheadMs,
  namespaces,
  namespace,
}: Facts): readonly Finding[] {
  const findings: Finding[] = [];
  const version = kubernetes.replace(/^v/, '');
  if (isNewer(OLDEST_KUBERNETES, version)) {
    findings.push({
      because: 'kubernetes-too-old',
      severity: 'error',
      objects: [],
      text: `Kubernetes is ${kubernetes}; what holds the agents to their own node's pods needs ${OLDEST_KUBERNETES}`,
      remedy: `upgrade Kubernetes to ${OLDEST_KUBERNETES} or later`,
    });
  }
  if (forbidden.length > 0) {
    findings.push({
      because: 'permission-missing',
      severity: 'error',
      objects: [],
      text: `you may not: ${forbidden.join(', ')}`,
      remedy: 'run the command as an administrator of the cluster (cluster-admin)',
    });
  }
  if (Math.abs(serverAheadMs) > CLOCK_MS) {
    findings.push({
      because: 'clock-differs',
      severity: 'warning',
      objects: [],
      text: `this machine's clock and the API server's differ by ${seconds(serverAheadMs)}`,
      remedy: 'synchronise the clocks (chrony, systemd-timesyncd): certificates and tokens are valid by the clock',
    });
  }
  const own = namespaces.find(({ metadata }) => metadata.name === namespace);
  const level = own === undefined ? undefined : labelOf(own, 'pod-security.kubernetes.io/enforce');
  if (level !== undefined && level !== 'privileged') {
    findings.push({
      because: 'namespace-restricted',
      severity: 'error',
      objects: [`namespace/${namespace}`],
      text: `namespace ${namespace} enforces the pod security level "${level}", which refuses the agents`,
      remedy: `kubectl label namespace ${namespace} --overwrite pod-security.kubernetes.io/enforce=privileged`,
    });
  }
  return findings;
}

/** Of each node. */
export function nodeFindings({ nodes, leases, serverNow }: Facts): readonly Finding[] {
  return nodes.flatMap((node) => {
    const { name } = node.metadata;
    const objects = [`node/${name}`];
    const findings: Finding[] = [];
    const status = (node.status ?? {}) as NodeStatus;
    const isReady = status.conditions?.some(({ type, status }) => type === 'Ready' && status === 'True') === true;
    if (!isReady) {
      findings.push({
        because: 'node-not-ready',
        severity: 'warning',
        objects,
        text: `node ${name} is not ready`,
        remedy: `kubectl describe node ${name} says why; its pods cannot be captured until then`,
      });
    }
    const kernel = status.nodeInfo?.kernelVersion ?? '';
    if (status.nodeInfo?.operatingSystem === 'linux' && isNewer(OLDEST_KERNEL, kernel)) {
      findings.push({
        because: 'kernel-too-old',
        severity: 'error',
        objects,
        text: `node ${name} runs Linux ${kernel}; redirection needs ${OLDEST_KERNEL} (nftables with NAT in the inet family)`,
        remedy: 'move the node to a newer kernel, or keep agents off it with agent.nodeSelector',
      });
    }
    const lease = leases.find(({ metadata }) => metadata.name === name);
    const renewed = Date.parse((lease?.spec as { renewTime?: string } | undefined)?.renewTime ?? '');
    const ahead = renewed - serverNow;
    // A heartbeat is sent every ten seconds; it may be that old, but never from the future.
    if (isReady && (ahead > CLOCK_MS || ahead < -OLDEST_HEARTBEAT_MS)) {
      findings.push({
        because: 'node-clock-differs',
        severity: 'warning',
        objects,
        text: `the clock of node ${name} is ${seconds(ahead)} ${ahead > 0 ? 'ahead of' : 'behind'} the API server's`,
        remedy: 'synchronise its clock (chrony, systemd-timesyncd): certificates and tokens are valid by the clock',
      });
    }
    return findings;
  });
}

/** What the webhook configurations say. */
export function webhookFindings({ webhooks }: Facts): readonly Finding[] {
  return webhooks
    .filter((each) => labelOf(each, 'app.kubernetes.io/part-of') === 'meltemi')
    .filter((each) => {
      const list = (each.webhooks ?? []) as readonly { clientConfig?: { caBundle?: string } }[];
      return list.some(({ clientConfig }) => !clientConfig?.caBundle);
    })
    .map((each) => ({
      because: 'webhook-without-roots' as const,
      severity: 'warning' as const,
      objects: [`validatingwebhookconfiguration/${each.metadata.name}`],
      text: `the API server cannot verify the webhook ${each.metadata.name}: objects are let in unseen`,
      remedy: 'the leading control plane writes the roots there: its log says what keeps it from that',
    }));
}

function seconds(ms: number): string {
  return `${Math.round(Math.abs(ms) / 1000)} s`;
}

interface NodeStatus {
  readonly conditions?: readonly { readonly type: string; readonly status: string }[];
  readonly nodeInfo?: { readonly kernelVersion?: string; readonly operatingSystem?: string };
}

/** Tokens name their node since then. */
const OLDEST_KUBERNETES = '1.30.0';
const OLDEST_KERNEL = '5.4.0';
const CLOCK_MS = 5_000;
const OLDEST_HEARTBEAT_MS = 60_000;
