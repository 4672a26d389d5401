import { Fields } from './fields.js';
import { type Metadata, readMetadata, type Selector } from './metadata.js';
import { type AuthorizationPolicy, DRY_RUN, type PeerAuthentication, readPeerAuthentication } from './security.js';
import { isSelectable } from './selector.js';

/**
 * What takes the place of a policy that cannot be read and never could: whatever it may select is held to the strictest
 * that it may have meant. An AuthorizationPolicy denies; a PeerAuthentication wants mutual TLS.
 *
 * Whom it selects is read as far as that goes. A label that cannot be read is left out, so that more is selected rather
 * than less; without any it is the namespace. Undefined where nothing is to be enforced: it has no name, or would do
 * nothing if it were good (`istio.io/dry-run`, AUDIT, CUSTOM, `targetRefs`).
 */
export function closedPolicy(
  kind: string,
  value: Readonly<Record<string, unknown>>,
  problems: readonly string[],
): AuthorizationPolicy | PeerAuthentication | undefined {
  const object = new Fields(value, '', []);
  const metadata = readMetadata(object, 'namespaced');
  if (object.problems.some((each) => /^metadata(?:\.name|\.namespace)? /.test(each))) return undefined;
  const spec = object.object('spec');
  const { selector, isLost } = whomItSelects(spec);
  const shared = { metadata, generation: 0, selector, closed: { problems, isSelectorLost: isLost } };
  switch (kind) {
    case 'AuthorizationPolicy':
      if (isHarmless(spec, metadata)) return undefined;
      return { kind, ...shared, targetRefs: [], action: 'DENY', rules: [NOTHING_RESTRICTED] };
    case 'PeerAuthentication': {
      const hasLabels = selector !== undefined && Object.keys(selector).length > 0;
      // One that is for some workloads comes before what is for all, also when nobody knows for which.
      return {
        kind,
        ...shared,
        selector: hasLabels || isLost ? selector : undefined,
        ...readableModes(value, hasLabels),
      };
    }
    default:
      return undefined;
  }
}

function whomItSelects(spec: Fields): { readonly selector: Selector; readonly isLost: boolean } {
  if (!spec.has('selector')) return { selector: undefined, isLost: false };
  const wanted = spec.object('selector').object('matchLabels');
  const said = Object.entries(wanted.value);
  const readable = said.filter((entry): entry is [string, string] => isSelectable(entry[0], entry[1]));
  // An empty one selects everything, and says so.
  const isLost = readable.length === 0 && (said.length > 0 || spec.problems.length > 0);
  return { selector: Object.fromEntries(readable), isLost };
}

/** A good one that says this would deny nothing either. */
function isHarmless(spec: Fields, { annotations }: Metadata): boolean {
  if (TRUE.has(annotations[DRY_RUN] ?? '')) return true;
  if (['AUDIT', 'CUSTOM'].includes(String(spec.value.action))) return true;
  return !spec.has('selector') && (spec.has('targetRef') || spec.has('targetRefs'));
}

/** The modes as written where they can be read; else mutual TLS on all ports. */
function readableModes(value: Readonly<Record<string, unknown>>, hasSelector: boolean) {
  const object = new Fields(value, '', []);
  const { mode, portModes } = readPeerAuthentication(object);
  const isReadable = !object.problems.some((each) => /^spec(?:\.(?:mtls|portLevelMtls)\b| is)/.test(each));
  if (isReadable && (hasSelector || portModes.size === 0)) return { mode, portModes };
  return { mode: 'STRICT' as const, portModes: new Map<number, never>() };
}

const NOTHING_RESTRICTED = { from: [], to: [], when: [] };
const TRUE: ReadonlySet<string> = new Set('1 t T TRUE true True'.split(' '));
