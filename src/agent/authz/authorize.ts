import { Action, type Authorization } from '../../gen/istio/security/authorization_pb.js';
import { problemOf } from '../../model/invalid-policy.js';
import { type AuthzConnection, matchingRule } from './matcher.js';

export type AuthzReason = 'no-policy' | 'policy-allow' | 'policy-deny' | 'policy-invalid' | 'no-allow-policy-matched';

/** Allowed or not, and who said so. */
export interface AuthzResult {
  readonly allowed: boolean;
  readonly because: AuthzReason;
  /** `namespace/name` of the policy that decided; empty when none did. */
  readonly policy: string;
  /** Index of its rule that matched; -1 when none did. */
  readonly rule: number;
  /** ALLOW policies of which one would have had to match. */
  readonly candidates: readonly string[];
  /** What is wrong with the policy that decided; empty for a good one. */
  readonly problem: string;
  /** What policies in dry run would have done, one sentence each. */
  readonly dryRun: readonly string[];
}

/**
 * The verdict of the policies in scope. A DENY that matches refuses; else, if there is any ALLOW, one must match; else
 * the connection is allowed. Policies in dry run only leave a note. Pure; `policies` come in a stable order.
 */
export function authorize(policies: readonly NamedPolicy[], connection: AuthzConnection): AuthzResult {
  const enforced = policies.filter(({ policy }) => !policy.dryRun);
  const dryRun = dryRunNotes(
    policies.filter(({ policy }) => policy.dryRun),
    connection,
  );
  for (const { key, policy } of enforced) {
    if (policy.action !== Action.DENY) continue;
    const rule = matchingRule(policy, connection);
    if (rule !== undefined) {
      const problem = problemOf(policy);
      const because = problem === undefined ? 'policy-deny' : 'policy-invalid';
      return { allowed: false, because, policy: key, rule, problem: problem ?? '', candidates: [], dryRun };
    }
  }
  const allows = enforced.filter(({ policy }) => policy.action === Action.ALLOW);
  if (allows.length === 0) {
    return { allowed: true, because: 'no-policy', policy: '', rule: -1, problem: '', candidates: [], dryRun };
  }
  const candidates = allows.map(({ key }) => key);
  for (const { key, policy } of allows) {
    const rule = matchingRule(policy, connection);
    if (rule !== undefined) {
      return { allowed: true, because: 'policy-allow', policy: key, rule, problem: '', candidates, dryRun };
    }
  }
  return { allowed: false, because: 'no-allow-policy-matched', policy: '', rule: -1, problem: '', candidates, dryRun };
}

export interface NamedPolicy {
  /** `namespace/name`. */
  readonly key: string;
  readonly policy: Authorization;
}

function dryRunNotes(policies: readonly NamedPolicy[], connection: AuthzConnection): string[] {
  const notes = policies.flatMap(({ key, policy }) => {
    const rule = matchingRule(policy, connection);
    if (rule === undefined) return [];
    return [`${key} rule ${rule} would ${policy.action === Action.DENY ? 'deny' : 'allow'}`];
  });
  const allows = policies.filter(({ policy }) => policy.action === Action.ALLOW);
  if (allows.length > 0 && !notes.some((note) => note.endsWith('would allow'))) {
    notes.push(`${allows.map(({ key }) => key).join(', ')} would deny: no allow rule matched`);
  }
  return notes;
}
