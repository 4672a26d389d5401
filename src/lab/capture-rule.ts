/**
 * Whether the agent is going to capture a pod, which must be known before the pod's processes start. The pod's label
 * wins over that of its namespace.
 */
export function shallBeCaptured(pod: {
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly namespaceLabels: Readonly<Record<string, string>>;
  readonly hostNetwork: boolean;
}): boolean {
  if (pod.hostNetwork || pod.annotations['sidecar.istio.io/status'] !== undefined) return false;
  return (pod.labels[MODE] ?? pod.namespaceLabels[MODE]) === 'ambient';
}

const MODE = 'istio.io/dataplane-mode';
