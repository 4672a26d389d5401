/** Keys, certificates and kubeconfigs of a cluster. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { CLUSTER_DOMAIN, type NodePlan, type Plan } from './plan.js';
import { sh } from './shell.js';

export async function makeCredentials(pki: string, plan: Plan, nodes: readonly NodePlan[]): Promise<void> {
  const client = (name: string, commonName: string, ...organizations: string[]) => ({
    name,
    authority: 'ca',
    commonName,
    organizations,
    names: [],
  });
  const service = plan.dnsAddress.replace(/\.10$/, '.1');
  const request = {
    directory: plan.credentials,
    authorities: ['ca', 'front-proxy-ca'],
    keys: ['service-accounts'],
    leaves: [
      {
        ...client('apiserver', 'kube-apiserver'),
        names: [
          ...['kubernetes', 'kubernetes.default', 'kubernetes.default.svc'],
          `kubernetes.default.svc.${CLUSTER_DOMAIN}`,
          ...['localhost', '127.0.0.1', plan.apiAddress, service],
        ],
      },
      client('admin', 'kubernetes-admin', 'system:masters'),
      client('apiserver-kubelet', 'kube-apiserver-kubelet', 'system:masters'),
      client('controller-manager', 'system:kube-controller-manager'),
      client('scheduler', 'system:kube-scheduler'),
      { ...client('front-proxy', 'front-proxy-client'), authority: 'front-proxy-ca' },
    ],
  };
  await sh([pki], { input: JSON.stringify(request) });
  for (const user of ['admin', 'controller-manager', 'scheduler']) {
    writeKubeconfig(plan, user, user === 'admin' ? plan.kubeconfig : join(plan.credentials, `${user}.kubeconfig`));
  }
  await makeNodeCredentials(pki, plan, nodes);
}

export async function makeNodeCredentials(pki: string, plan: Plan, nodes: readonly NodePlan[]): Promise<void> {
  const leaves = nodes.flatMap(({ name, address }) => [
    {
      name: `kubelet-${name}`,
      authority: 'ca',
      commonName: `system:node:${name}`,
      organizations: ['system:nodes'],
      names: [name, address, '127.0.0.1'],
    },
    { name: `proxy-${name}`, authority: 'ca', commonName: 'system:kube-proxy', organizations: [], names: [] },
  ]);
  await sh([pki], { input: JSON.stringify({ directory: plan.credentials, authorities: ['ca'], leaves }) });
  for (const { name, directory } of nodes) {
    const own = join(directory, 'kubernetes');
    mkdirSync(own, { recursive: true });
    writeKubeconfig(plan, `kubelet-${name}`, join(own, 'kubelet.kubeconfig'));
    writeKubeconfig(plan, `proxy-${name}`, join(own, 'kube-proxy.kubeconfig'));
    for (const [from, to] of [
      ['ca.crt', 'ca.crt'],
      [`kubelet-${name}.crt`, 'kubelet.crt'],
      [`kubelet-${name}.key`, 'kubelet.key'],
    ] as const) {
      writeFileSync(join(own, to), readFileSync(join(plan.credentials, from)), { mode: 0o600 });
    }
  }
}

function writeKubeconfig(plan: Plan, user: string, file: string): void {
  const base64 = (name: string) => readFileSync(join(plan.credentials, name)).toString('base64');
  const name = `meltemi-${plan.name}`;
  const config = {
    apiVersion: 'v1',
    kind: 'Config',
    clusters: [{ name, cluster: { server: plan.apiServer, 'certificate-authority-data': base64('ca.crt') } }],
    users: [
      {
        name: user,
        user: { 'client-certificate-data': base64(`${user}.crt`), 'client-key-data': base64(`${user}.key`) },
      },
    ],
    contexts: [{ name, context: { cluster: name, user } }],
    'current-context': name,
  };
  writeFileSync(file, JSON.stringify(config, undefined, 2), { mode: 0o600 });
}
