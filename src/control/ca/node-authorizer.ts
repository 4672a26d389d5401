import { err, ok, type Result } from '../../lib/result.js';
import { formatSpiffeId, parseSpiffeId, type SpiffeId } from '../../model/spiffe-id.js';
import type { Principal } from './token-verifier.js';

export interface NodeRule {
  readonly trustDomain: string;
  /** `namespace/service-account` of node agents: who may ask on behalf of pods. */
  readonly nodeAccounts: ReadonlySet<string>;
  /** SPIFFE ids of the live pods of a node. */
  readonly identitiesOfNode: (node: string) => ReadonlySet<string>;
  /** Asked before anybody is refused: a pod may be too new to be in `identitiesOfNode`. Rejects when it cannot tell. */
  readonly lives?: (node: string, identity: SpiffeId) => Promise<boolean>;
}

/**
 * The SPIFFE id that a caller may have a certificate for. A node agent gets that of a live pod on its node and of no
 * other; everybody else, and an agent that names nobody, gets its own. Error: which condition does not hold. Rejects when
 * `lives` does.
 */
export async function authorizedIdentity(
  caller: Principal,
  impersonated: string | undefined,
  { trustDomain, nodeAccounts, identitiesOfNode, lives = async () => false }: NodeRule,
): Promise<Result<string>> {
  const own = formatSpiffeId(caller.identity);
  if (impersonated === undefined) return ok(own);
  const wanted = parseSpiffeId(impersonated);
  if (!wanted.ok) return wanted;
  const identity = formatSpiffeId(wanted.value);
  if (!nodeAccounts.has(`${caller.identity.namespace}/${caller.identity.serviceAccount}`)) {
    return err(`${own} is no node agent and may not ask for ${identity}`);
  }
  if (wanted.value.trustDomain !== trustDomain) return err(`${identity} is not of trust domain ${trustDomain}`);
  if (caller.node === undefined)
    return err(`the token of ${own} is bound to no pod on a node, so it may not ask for ${identity}`);
  return identitiesOfNode(caller.node).has(identity) || (await lives(caller.node, wanted.value))
    ? ok(identity)
    : err(`no live pod on node ${caller.node} has the identity ${identity}`);
}
