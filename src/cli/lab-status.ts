import type { LabStatus } from '../lab/status.js';

/** `lab status` for people. */
export function formatStatus(status: LabStatus): string {
  const { controlPlane, nodes, pods, services, problems } = status;
  const control =
    controlPlane === null
      ? 'no mesh'
      : `control plane ${controlPlane.ready ? 'ready' : 'not ready'} (pid ${controlPlane.pid || 'none'}, restarts ${controlPlane.restarts})`;
  const tables = [
    table(
      ['NODE', 'AGENT', 'RESTARTS', 'ADDRESSES', 'NETWORK NAMESPACE'],
      nodes.map((node) => [
        node.name,
        status.mesh ? (node.agentReady ? 'ready' : 'not ready') : '-',
        String(node.agentRestarts),
        node.addresses.join(' '),
        node.netns,
      ]),
    ),
    table(
      ['POD', 'NAMESPACE', 'NODE', 'READY', 'STATUS', 'RESTARTS', 'MESH', 'ADDRESSES', 'PIDS'],
      pods.map((pod) => [
        pod.name,
        pod.namespace,
        pod.node,
        pod.ready ? 'yes' : 'no',
        pod.stopping ? 'Terminating' : pod.phase,
        String(pod.restarts),
        pod.redirection === '' ? '-' : pod.redirection,
        pod.addresses.join(' '),
        pod.pids.join(' '),
      ]),
    ),
    table(
      ['SERVICE', 'NAMESPACE', 'ADDRESSES', 'PORTS', 'READY PODS'],
      services.map(({ name, namespace, addresses, ports, readyPods }) => [
        name,
        namespace,
        addresses.join(' ') || 'none',
        ports.join(' '),
        String(readyPods),
      ]),
    ),
  ].filter((text) => text !== '');
  const messages = pods
    .filter(({ message }) => message !== '')
    .map(({ name, namespace, message }) => `pod ${namespace}/${name}: ${message}`);
  return [`lab ${status.name}: ${control}`, ...tables, ...[...problems, ...messages].map((text) => `! ${text}`)].join(
    '\n\n',
  );
}

function table(heads: readonly string[], rows: readonly (readonly string[])[]): string {
  if (rows.length === 0) return '';
  const widths = heads.map((head, column) => Math.max(head.length, ...rows.map((row) => row[column]?.length ?? 0)));
  return [heads, ...rows]
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}
