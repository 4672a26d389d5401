import type { ApiObject } from '../../kube/api.js';
import { annotationOf, labelOf } from '../install/objects.js';
import { progressOf, whyNotReady } from '../install/rollout.js';
import type { Facts, Finding } from './facts.js';
import { isWanted } from './policy-findings.js';

/** What else runs in the cluster that would take the same pods, or the same names. */
export function neighbourFindings({ daemonSets, deployments }: Facts): readonly Finding[] {
  const on = ({ metadata }: ApiObject) => `${metadata.namespace}/${metadata.name}`;
  const agents = daemonSets.filter(
    (each) => labelOf(each, 'app') === 'ztunnel' || labelOf(each, 'k8s-app') === 'istio-cni-node',
  );
  const controlPlanes = deployments.filter((each) => labelOf(each, 'app') === 'istiod');
  return [
    ...agents.map(
      (each): Finding => ({
        because: 'another-ambient-mesh',
        severity: 'error',
        objects: [`daemonset/${on(each)}`],
        text: `${on(each)} is a node agent of Istio: both would capture the same pods`,
        remedy: 'remove the ambient components of Istio first (istioctl uninstall), or keep the meshes in two clusters',
      }),
    ),
    ...controlPlanes.map(
      (each): Finding => ({
        because: 'another-control-plane',
        severity: 'warning',
        objects: [`deployment/${on(each)}`],
        text: `${on(each)} is a control plane of Istio: it publishes roots of its own under the same name in each namespace`,
        remedy: 'give both the same CA (a secret "cacerts" in each install namespace), or remove Istio first',
      }),
    ),
  ];
}

/** Of the definitions that the control plane reads. */
export function crdFindings({ crds, ourCrds }: Facts): readonly Finding[] {
  return ourCrds.flatMap((name): Finding[] => {
    const found = crds.find(({ metadata }) => metadata.name === name);
    const objects = [`customresourcedefinition/${name}`];
    const remedy = 'meltemi upgrade brings what is missing; what Istio owns is upgraded with Istio (1.22 or later)';
    if (found === undefined) {
      return [{ because: 'crd-missing', severity: 'error', objects, text: `there is no definition ${name}`, remedy }];
    }
    const { versions = [] } = (found.spec ?? {}) as { versions?: readonly { name: string; served: boolean }[] };
    if (versions.some(({ name: version, served }) => version === 'v1' && served)) return [];
    const text = `the definition ${name} does not serve version v1, which the control plane reads`;
    return [{ because: 'crd-too-old', severity: 'error', objects, text, remedy }];
  });
}

/** Of the control planes and the agents. */
export function installationFindings(facts: Facts): readonly Finding[] {
  const deployments = facts.deployments.filter((each) => labelOf(each, NAME) === CONTROL_PLANE);
  if (deployments.length === 0) {
    const remedy = 'meltemi install; meltemi check --pre tells beforehand what stands in the way';
    return [
      { because: 'not-installed', severity: 'error', objects: [], text: 'no control plane is installed', remedy },
    ];
  }
  return [
    ...deployments.flatMap((each) => controlPlaneFindings(each, facts)),
    ...agentFindings(facts),
    ...versionFindings(deployments, facts),
    ...podFindings(facts),
  ];
}

function controlPlaneFindings(deployment: ApiObject, { pods }: Facts): readonly Finding[] {
  const { namespace, name } = deployment.metadata;
  const objects = [`deployment/${namespace}/${name}`];
  const { done, text } = progressOf({ ...deployment, kind: 'Deployment' });
  const instance = labelOf(deployment, INSTANCE);
  const reasons = pods
    .filter((pod) => labelOf(pod, NAME) === CONTROL_PLANE && labelOf(pod, INSTANCE) === instance)
    .flatMap(whyNotReady);
  const { replicas = 1 } = (deployment.spec ?? {}) as { replicas?: number };
  return [
    ...(done
      ? []
      : [
          {
            because: 'control-plane-not-ready',
            severity: 'error',
            objects,
            text: [`${namespace}/${name}: ${text}`, ...reasons].join('; '),
            remedy: `kubectl -n ${namespace} logs deployment/${name} says more`,
          } as const,
        ]),
    ...(replicas === 1
      ? [
          {
            because: 'control-plane-single',
            severity: 'info',
            objects,
            text: `${namespace}/${name} has one replica: while it restarts, new pods wait for their certificates`,
            remedy: 'meltemi upgrade --set controlPlane.replicas=2',
          } as const,
        ]
      : []),
  ];
}

function agentFindings({ nodes, pods, agentNodes, namespace }: Facts): readonly Finding[] {
  return nodes
    .filter((node) => Object.entries(agentNodes).every(([name, value]) => labelOf(node, name) === value))
    .flatMap((node): Finding[] => {
      const { name } = node.metadata;
      const here = pods.filter(
        (pod) =>
          labelOf(pod, NAME) === AGENT &&
          (pod.spec as { nodeName?: string }).nodeName === name &&
          pod.metadata.deletionTimestamp === undefined,
      );
      const objects = [`node/${name}`, ...here.map(({ metadata }) => `pod/${metadata.namespace}/${metadata.name}`)];
      if (here.length === 0) {
        const text = `no agent runs on node ${name}: its pods are not captured`;
        const remedy = `kubectl -n ${namespace} describe daemonset ${AGENT} says what keeps it away`;
        return [{ because: 'agent-missing', severity: 'error', objects, text, remedy }];
      }
      if (here.some((pod) => whyNotReady(pod).length === 0)) return [];
      const text = here.flatMap(whyNotReady).join('; ');
      const remedy = `kubectl -n ${namespace} logs ${here[0]?.metadata.name} says more, and its /healthz/ready what it waits for`;
      return [{ because: 'agent-not-ready', severity: 'error', objects, text, remedy }];
    });
}

function versionFindings(deployments: readonly ApiObject[], { daemonSets, ourVersion }: Facts): readonly Finding[] {
  const agents = daemonSets.filter((each) => labelOf(each, NAME) === AGENT);
  return [...deployments, ...agents].flatMap((each): Finding[] => {
    const version = labelOf(each, VERSION) ?? 'unknown';
    if (version === ourVersion) return [];
    const { namespace, name } = each.metadata;
    const objects = [
      `${each === deployments[0] || deployments.includes(each) ? 'deployment' : 'daemonset'}/${namespace}/${name}`,
    ];
    const text = `${namespace}/${name} is of version ${version}, this command of ${ourVersion}`;
    const remedy = 'meltemi upgrade brings all parts to the version of the command';
    return [{ because: 'versions-differ', severity: 'warning', objects, text, remedy }];
  });
}

/** Pods that should be captured and are not; those that are just starting are left out. */
function podFindings({ pods, namespaces }: Facts): readonly Finding[] {
  return pods.flatMap((pod): Finding[] => {
    const home = namespaces.find(({ metadata }) => metadata.name === pod.metadata.namespace);
    const { phase } = (pod.status ?? {}) as { phase?: string };
    if (!isWanted(pod, home) || phase !== 'Running' || pod.metadata.deletionTimestamp !== undefined) return [];
    const state = annotationOf(pod, 'ambient.istio.io/redirection');
    if (state === 'enabled') return [];
    const where = `${pod.metadata.namespace}/${pod.metadata.name}`;
    const { nodeName } = (pod.spec ?? {}) as { nodeName?: string };
    return [
      {
        because: 'pod-not-captured',
        severity: 'error',
        objects: [`pod/${where}`],
        text: `pod ${where} is to be captured and ${state === undefined ? 'is not' : `is only ${state}`}`,
        remedy: `the log of the agent on node ${nodeName} names the pod and what fails`,
      },
    ];
  });
}

const NAME = 'app.kubernetes.io/name';
const INSTANCE = 'app.kubernetes.io/instance';
const VERSION = 'app.kubernetes.io/version';
const CONTROL_PLANE = 'meltemi-control-plane';
const AGENT = 'meltemi-agent';
