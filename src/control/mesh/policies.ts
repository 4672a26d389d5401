import type { Collection, Context, Index } from '../../collections/collection.js';
import type { Graph } from '../../collections/graph.js';
import type { Authorization } from '../../gen/istio/security/authorization_pb.js';
import { keyOf, type Selector } from '../../model/kubernetes/metadata.js';
import type { PeerAuthentication } from '../../model/kubernetes/security.js';
import type { Inputs } from '../inputs/inputs.js';
import { toAuthorization } from './authorization.js';
import type { MeshOptions } from './mesh-options.js';
import { inheritedMode, portPolicy, staticStrictPolicy, strictPolicyNames } from './peer-authentication.js';
import { indexBySelector, type LabelSet, selecting } from './selection.js';

export interface Policies {
  /** By `namespace/name`. */
  readonly authorizations: Collection<Authorization>;
  /** PeerAuthentications without selector, by namespace. */
  readonly generalPeerAuthentications: Index<PeerAuthentication>;
  /** Which policies hold for workloads with these labels because they select them. Reads through the context. */
  namesOf(context: Context, set: LabelSet): readonly string[];
}

export function derivePolicies(graph: Graph, inputs: Inputs, options: MeshOptions): Policies {
  const { rootNamespace } = options;
  const outcomes = graph.derive('policy outcomes', inputs.AuthorizationPolicy, (_, policy) => ({
    ...toAuthorization(policy, rootNamespace),
    source: keyOf(policy.metadata),
    namespace: policy.metadata.namespace,
    selector: policy.selector,
  }));
  const fromAuthorizationPolicies = graph.derive(
    'policies of AuthorizationPolicies',
    outcomes,
    (_, outcome) => outcome.authorization,
  );
  // What is refused or meant for others selects nobody.
  const bySelector = indexBySelector(
    graph,
    'policies by selector',
    outcomes,
    ({ authorization, namespace, selector }) => ({
      namespace,
      selector: authorization === undefined ? undefined : selector,
    }),
  );

  const general = graph.index('PeerAuthentications of namespaces', inputs.PeerAuthentication, (policy) =>
    policy.selector === undefined ? [policy.metadata.namespace] : [],
  );
  const specific = indexBySelector(graph, 'PeerAuthentications by selector', inputs.PeerAuthentication, (policy) => ({
    namespace: policy.metadata.namespace,
    // Mesh-wide policies have no selector.
    selector: policy.metadata.namespace === rootNamespace ? undefined : policy.selector,
  }));
  const inherited = (context: Context, namespace: string) =>
    inheritedMode(context.lookup(general, namespace), context.lookup(general, rootNamespace));
  const fromPeerAuthentications = graph.deriveMany(
    'policies of PeerAuthentications',
    inputs.PeerAuthentication,
    (context, policy) => {
      if (policy.selector === undefined || policy.metadata.namespace === rootNamespace) return [];
      const converted = portPolicy(policy, inherited(context, policy.metadata.namespace));
      return converted === undefined ? [] : [converted];
    },
    policyKey,
  );
  const strict = staticStrictPolicy(rootNamespace);
  const always = graph.constant('static policies', policyKey(strict), strict);

  const selectorOf = ({ selector }: { readonly selector: Selector }) => selector;
  return {
    authorizations: graph.join('policies', [always, fromPeerAuthentications, fromAuthorizationPolicies]),
    generalPeerAuthentications: general,
    namesOf(context, { namespace, labels }) {
      const namespaces = [...new Set([namespace, rootNamespace])];
      const selected = namespaces.flatMap((each) => selecting(context, bySelector, each, labels, selectorOf));
      const peers = selecting(context, specific, namespace, labels, selectorOf);
      return [
        ...selected.map(({ source }) => source).sort(),
        ...strictPolicyNames(peers, inherited(context, namespace), rootNamespace),
      ];
    },
  };
}

export function policyKey({ namespace, name }: Pick<Authorization, 'namespace' | 'name'>): string {
  return `${namespace}/${name}`;
}
