import type { Command } from 'commander';
import type { InboundExplanation } from '../agent/explain/explain-inbound.js';
import type { EndpointExplanation, OutboundExplanation, RouteExplanation } from '../agent/explain/explain-outbound.js';
import { parseHostPort } from '../lib/ip.js';
import { type AgentQuery, labAgents } from './agents.js';
import { type EndpointOutcome, type Explanation, formatExplanation, type Step } from './explanation.js';

/** `meltemi explain`: why a connection would go where it goes. */
export function registerExplain(program: Command): void {
  program
    .command('explain')
    .description('Walk the path of a connection through the live snapshots of the agents, and say why.')
    .argument('<pod>', 'POD or POD.NAMESPACE, from which the connection comes')
    .argument('<target>', 'HOST:PORT as the program in the pod would name it')
    .option('--json', 'for programs')
    .option('--lab <name>', 'the lab to ask', 'default')
    .action(async (pod: string, target: string, { json, lab }: { json?: boolean; lab: string }) => {
      const explanation = await explain(pod, target, labAgents(lab));
      console.log(json === true ? JSON.stringify(explanation, undefined, 2) : formatExplanation(explanation));
      process.exitCode = explanation.outcome === 'allowed' ? 0 : explanation.outcome === 'unknown' ? 1 : 2;
    });
}

/** Asks the source's agent where the connection goes, then each destination's agent whether it is let in. */
export async function explain(pod: string, target: string, agents: AgentQuery): Promise<Explanation> {
  const { host, port } = parseTarget(target);
  const source = qualifiedPod(pod);
  const outbound = await agents.ask<OutboundExplanation>('/explain', { pod: source, host, port: String(port) });
  if (outbound === undefined) throw new Error(`no agent knows a pod ${source}; is it running, and in this lab?`);
  const steps: Step[] = [captureStep(outbound), nameStep(outbound, host)];
  const endpoints: EndpointOutcome[] = [];
  for (const route of outbound.routes) {
    steps.push(routeStep(route, outbound));
    for (const endpoint of route.endpoints.filter(({ eligible }) => eligible)) {
      const reached = route.because === 'own-address' ? ownDelivery(endpoint) : await reach(outbound, endpoint, agents);
      steps.push(...reached.steps);
      endpoints.push(reached.outcome);
    }
  }
  return { from: source, to: target, ...conclude(outbound, endpoints), steps, endpoints };
}

interface Reached {
  readonly steps: readonly Step[];
  readonly outcome: EndpointOutcome;
}

/** A pod talks to itself: the mesh has no part in it. */
function ownDelivery({ uid, ip, port }: EndpointExplanation): Reached {
  const because = 'own-address';
  const text = `${ip}:${port} is the pod's own: nothing leaves it`;
  return {
    steps: [{ decision: 'delivery', because, objects: [], text }],
    outcome: { uid, ip, port, transport: 'plaintext', outcome: 'allowed', because, objects: [] },
  };
}

/** One endpoint: how it is reached, and what its own side says. */
async function reach(outbound: OutboundExplanation, endpoint: EndpointExplanation, agents: AgentQuery) {
  const { uid, ip, port, transport } = endpoint;
  const src = outbound.sourceIps.find((each) => each.includes(':') === ip.includes(':')) ?? outbound.sourceIps[0] ?? '';
  const pod = podOfUid(uid);
  const inbound =
    pod === undefined
      ? undefined
      : await agents.ask<InboundExplanation>('/explain-inbound', {
          pod,
          ip,
          port: String(port),
          src,
          identity: transport === 'hbone' ? outbound.identity : '',
          authority: endpoint.authority,
        });
  const steps = [tunnelStep(outbound, endpoint), inboundStep(endpoint, inbound)];
  const mismatch =
    transport === 'hbone' && inbound?.identity !== undefined && !endpoint.identities.includes(inbound.identity);
  const last = steps.at(-1);
  const outcome: EndpointOutcome = {
    uid,
    ip,
    port,
    transport,
    outcome: mismatch ? 'denied' : (inbound?.outcome ?? 'allowed'),
    because: mismatch ? 'identity-mismatch' : (last?.because ?? ''),
    objects: last?.objects ?? [],
  };
  return { steps, outcome } satisfies Reached;
}

function conclude(
  { routes, resolution }: OutboundExplanation,
  endpoints: readonly EndpointOutcome[],
): Pick<Explanation, 'outcome' | 'transport' | 'because' | 'objects'> {
  if (routes.length === 0) {
    const outcome = resolution.because === 'not-a-mesh-name' ? 'unknown' : 'denied';
    const because = outcome === 'denied' ? 'no-address' : resolution.because;
    return { outcome, transport: 'none', because, objects: [] };
  }
  const [first] = routes;
  if (first !== undefined && routes.every(({ because }) => because === 'not-an-address-of-the-cluster')) {
    return { outcome: 'unknown', transport: 'none', because: first.because, objects: first.objects };
  }
  const refusedRoutes = routes.filter(({ action }) => action === 'deny');
  const allowed = endpoints.filter(({ outcome }) => outcome === 'allowed');
  const denied = endpoints.filter(({ outcome }) => outcome === 'denied');
  const refusals = denied.length + refusedRoutes.length;
  const deciding = denied[0] ?? refusedRoutes[0] ?? allowed[0] ?? routes[0];
  const transports = new Set((allowed.length > 0 ? allowed : denied).map(({ transport }) => transport));
  const [transport] = transports;
  return {
    outcome: refusals === 0 ? 'allowed' : allowed.length === 0 ? 'denied' : 'mixed',
    transport: transports.size > 1 ? 'mixed' : (transport ?? 'none'),
    because: deciding?.because ?? '',
    objects: deciding?.objects ?? [],
  };
}

function captureStep({ pod, node, captured, captureBecause, identity }: OutboundExplanation): Step {
  const text = captured
    ? `${pod} on ${node} is captured: the mesh carries its connections as ${identity}`
    : `${pod} on ${node} is not captured: its connections leave as they are`;
  return { decision: 'capture', because: captureBecause, objects: [`pod/${pod}`], text };
}

function nameStep({ resolution }: OutboundExplanation, host: string): Step {
  const { because, name, service, addresses } = resolution;
  const text =
    because === 'address'
      ? `${host} is an address`
      : because === 'not-a-mesh-name'
        ? `${host} is no name of the mesh: the pod's own nameserver decides`
        : `${host} is ${name}, which has ${addresses.join(', ') || 'no address'}`;
  return { decision: 'name', because, objects: service === '' ? [] : [`service/${service}`], text };
}

function routeStep({ ip, action, because, objects, endpoints }: RouteExplanation, { port }: OutboundExplanation): Step {
  const eligible = endpoints.filter((endpoint) => endpoint.eligible);
  const left = endpoints
    .filter((endpoint) => !endpoint.eligible)
    .map(({ uid, name, excluded }) => {
      return `${uid} (${name === '' ? '' : `${name}: `}${excluded})`;
    });
  const leftOut = left.length === 0 ? '' : `; left out: ${left.join(', ')}`;
  const where = `${ip}:${port}`;
  const text =
    action === 'deny'
      ? `${where} is refused at the source${leftOut}`
      : action === 'direct'
        ? `${where} is connected to as it is`
        : `${where} goes to one of ${[...new Set(eligible.map((each) => each.uid))].join(', ')}${leftOut}`;
  return { decision: 'route', because, objects, text };
}

function tunnelStep(
  { identity }: OutboundExplanation,
  { uid, name, ip, port, transport, identities, authority }: EndpointExplanation,
): Step {
  const objects = [...(uid === '' ? [] : [`workload/${uid}`]), ...(name === '' ? [] : [`name/${name}`])];
  const found = name === '' ? '' : `, as DNS says of ${name},`;
  if (transport === 'plaintext') {
    return { decision: 'tunnel', because: 'plaintext', objects, text: `${ip}:${port}${found} is reached in plaintext` };
  }
  const text = `${authority || `${ip}:${port}`}${found} over mutual TLS: ${identity} expects ${identities.join(' or ')}`;
  return { decision: 'tunnel', because: 'hbone', objects, text };
}

function inboundStep({ uid, ip, port }: EndpointExplanation, inbound: InboundExplanation | undefined): Step {
  if (inbound === undefined) {
    const objects = uid === '' ? [] : [`workload/${uid}`];
    return { decision: 'delivery', because: 'outside-mesh', objects, text: `no agent watches over ${ip}:${port}` };
  }
  const { pod, node, captured, captureBecause, outcome, because, objects, target, policy } = inbound;
  if (!captured) {
    const text =
      outcome === 'allowed' ? `${pod} on ${node} is not captured: delivered` : `${pod} on ${node} has no tunnel`;
    return { decision: 'delivery', because, objects: [`pod/${pod}`, `capture/${captureBecause}`], text };
  }
  if (policy === undefined) {
    const text = outcome === 'allowed' ? `${pod} on ${node} delivers to ${target}` : `${pod} on ${node} refuses`;
    return { decision: 'delivery', because, objects, text };
  }
  const rule =
    policy.problem !== '' ? `, which is no good: ${policy.problem}` : policy.rule < 0 ? '' : `, rule ${policy.rule}`;
  const dryRun = policy.dryRun.length === 0 ? '' : `; in dry run: ${policy.dryRun.join('; ')}`;
  const verb = outcome === 'allowed' ? `delivers to ${target}` : 'refuses';
  const text = `${pod} on ${node} ${verb}${policy.policy === '' ? '' : `: ${policy.policy}${rule}`}${dryRun}`;
  return { decision: 'policy', because, objects: withRule(objects, policy.rule), text };
}

function withRule(objects: readonly string[], rule: number): readonly string[] {
  return rule < 0 ? objects : [...objects, `rule/${rule}`];
}

function parseTarget(target: string): { host: string; port: number } {
  const parsed = parseHostPort(target);
  if (parsed === undefined) throw new Error(`"${target}" is not HOST:PORT ([ADDRESS]:PORT for IPv6)`);
  return parsed;
}

/** `POD` or `POD.NAMESPACE` as `namespace/name`. A pod's name may hold dots: the last one divides. */
function qualifiedPod(text: string): string {
  const dot = text.lastIndexOf('.');
  return dot < 0 ? `default/${text}` : `${text.slice(dot + 1)}/${text.slice(0, dot)}`;
}

/** `namespace/name` of a pod's uid; undefined for anything else. */
function podOfUid(uid: string): string | undefined {
  return /^[^/]+\/\/Pod\/([^/]+\/[^/]+)$/.exec(uid)?.[1];
}
