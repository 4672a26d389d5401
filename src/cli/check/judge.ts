import { clusterFindings, nodeFindings, webhookFindings } from './cluster-findings.js';
import type { Facts, Finding } from './facts.js';
import { crdFindings, installationFindings, neighbourFindings } from './mesh-findings.js';
import { networkFindings } from './network-findings.js';

/**
 * What is wrong, worst first. Before an installation (`pre`) nothing is expected to be there, and the definitions that
 * are missing will be brought.
 */
export function judge(facts: Facts, pre: boolean): readonly Finding[] {
  const installation = pre ? [] : [...webhookFindings(facts), ...installationFindings(facts)];
  const willBeBrought = pre || installation.some(({ because }) => because === 'not-installed');
  const findings = [
    ...clusterFindings(facts),
    ...nodeFindings(facts),
    ...networkFindings(facts),
    ...neighbourFindings(facts),
    ...crdFindings(facts).filter(({ because }) => !willBeBrought || because !== 'crd-missing'),
    ...installation,
  ];
  return findings.toSorted((a, b) => RANK[a.severity] - RANK[b.severity]);
}

/** For people: one finding, its remedy below it. */
export function formatFindings(findings: readonly Finding[]): string {
  const lines = findings.flatMap(({ severity, because, text, remedy }) => [
    `${MARKS[severity]} ${text} [${because}]`,
    `    ${remedy}`,
  ]);
  const count = (severity: Finding['severity']) => findings.filter((each) => each.severity === severity).length;
  const [errors, warnings] = [count('error'), count('warning')];
  const summary = errors + warnings === 0 ? 'Nothing is wrong.' : `${errors} errors, ${warnings} warnings.`;
  return [...lines, summary].join('\n');
}

const RANK = { error: 0, warning: 1, info: 2 } as const;
const MARKS = { error: '✗', warning: '!', info: '·' } as const;
