import type { Resource } from './api.js';

/** The kinds that something of ours reads or writes. */
export const RESOURCES = {
  Namespace: core('namespaces', 'Namespace', false),
  Node: core('nodes', 'Node', false),
  Pod: core('pods', 'Pod'),
  Service: core('services', 'Service'),
  ServiceAccount: core('serviceaccounts', 'ServiceAccount'),
  ConfigMap: core('configmaps', 'ConfigMap'),
  Secret: core('secrets', 'Secret'),
  Event: core('events', 'Event'),
  EndpointSlice: of('discovery.k8s.io', 'v1', 'endpointslices', 'EndpointSlice'),
  Lease: of('coordination.k8s.io', 'v1', 'leases', 'Lease'),
  DaemonSet: of('apps', 'v1', 'daemonsets', 'DaemonSet'),
  Deployment: of('apps', 'v1', 'deployments', 'Deployment'),
  Role: rbac('roles', 'Role'),
  RoleBinding: rbac('rolebindings', 'RoleBinding'),
  ClusterRole: rbac('clusterroles', 'ClusterRole', false),
  ClusterRoleBinding: rbac('clusterrolebindings', 'ClusterRoleBinding', false),
  PodDisruptionBudget: of('policy', 'v1', 'poddisruptionbudgets', 'PodDisruptionBudget'),
  ValidatingAdmissionPolicy: admission('validatingadmissionpolicies', 'ValidatingAdmissionPolicy'),
  ValidatingAdmissionPolicyBinding: admission('validatingadmissionpolicybindings', 'ValidatingAdmissionPolicyBinding'),
  MutatingAdmissionPolicy: admission('mutatingadmissionpolicies', 'MutatingAdmissionPolicy'),
  MutatingAdmissionPolicyBinding: admission('mutatingadmissionpolicybindings', 'MutatingAdmissionPolicyBinding'),
  NetworkPolicy: of('networking.k8s.io', 'v1', 'networkpolicies', 'NetworkPolicy'),
  CustomResourceDefinition: of(
    'apiextensions.k8s.io',
    'v1',
    'customresourcedefinitions',
    'CustomResourceDefinition',
    false,
  ),
  ValidatingWebhookConfiguration: admission('validatingwebhookconfigurations', 'ValidatingWebhookConfiguration'),
  TokenReview: of('authentication.k8s.io', 'v1', 'tokenreviews', 'TokenReview', false),
  ClusterTrustBundle: of('certificates.k8s.io', 'v1beta1', 'clustertrustbundles', 'ClusterTrustBundle', false),
  ServiceEntry: of('networking.istio.io', 'v1', 'serviceentries', 'ServiceEntry'),
  WorkloadEntry: of('networking.istio.io', 'v1', 'workloadentries', 'WorkloadEntry'),
  AuthorizationPolicy: of('security.istio.io', 'v1', 'authorizationpolicies', 'AuthorizationPolicy'),
  PeerAuthentication: of('security.istio.io', 'v1', 'peerauthentications', 'PeerAuthentication'),
} as const satisfies Readonly<Record<string, Resource>>;

function core(plural: string, kind: string, namespaced = true): Resource {
  return of('', 'v1', plural, kind, namespaced);
}

function rbac(plural: string, kind: string, namespaced = true): Resource {
  return of('rbac.authorization.k8s.io', 'v1', plural, kind, namespaced);
}

function admission(plural: string, kind: string): Resource {
  return of('admissionregistration.k8s.io', 'v1', plural, kind, false);
}

function of(group: string, version: string, plural: string, kind: string, namespaced = true): Resource {
  return { group, version, plural, kind, namespaced };
}
