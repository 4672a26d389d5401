/** What `meltemi explain --json` prints. The shapes of the agents' answers are theirs: see docs/explain.md. */
export interface Explanation {
  readonly from: string;
  readonly to: string;
  /** `mixed`: it depends on the endpoint that is chosen. `unknown`: the name or address is none of the mesh's, and the network decides. */
  readonly outcome: 'allowed' | 'denied' | 'mixed' | 'unknown';
  /** Of the connections that are allowed, or else of those that are refused. */
  readonly transport: 'hbone' | 'plaintext' | 'mixed' | 'none';
  /** Reason code of the last decision; of the refusal, when there is one. */
  readonly because: string;
  readonly objects: readonly string[];
  readonly steps: readonly Step[];
  readonly endpoints: readonly EndpointOutcome[];
}

/** One decision of the path. */
export interface Step {
  readonly decision: 'capture' | 'name' | 'route' | 'endpoints' | 'tunnel' | 'policy' | 'delivery';
  readonly because: string;
  readonly objects: readonly string[];
  /** A sentence for people. */
  readonly text: string;
}

export interface EndpointOutcome {
  readonly uid: string;
  readonly ip: string;
  readonly port: number;
  readonly transport: 'hbone' | 'plaintext';
  readonly outcome: 'allowed' | 'denied';
  readonly because: string;
  readonly objects: readonly string[];
}

/** Text for a terminal. */
export function formatExplanation(explanation: Explanation): string {
  const width = Math.max(...explanation.steps.map(({ decision }) => decision.length));
  const lines = explanation.steps.map(({ decision, because, objects, text }) => {
    const named = objects.length === 0 ? '' : ` (${objects.join(', ')})`;
    return `  ${decision.padEnd(width)}  ${text}\n  ${' '.repeat(width)}  because ${because}${named}`;
  });
  const via = explanation.transport === 'none' ? '' : ` over ${explanation.transport}`;
  return [
    `${explanation.from} -> ${explanation.to}: ${explanation.outcome}${via}`,
    ...lines,
    `${explanation.outcome}, because ${explanation.because}${named(explanation.objects)}`,
  ].join('\n');
}

function named(objects: readonly string[]): string {
  return objects.length === 0 ? '' : ` (${objects.join(', ')})`;
}
