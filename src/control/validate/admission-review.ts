import { isDeepStrictEqual } from 'node:util';
import { err, ok, type Result } from '../../lib/result.js';
import { isRecord } from '../../model/kubernetes/fields.js';
import { idOf, parseObject } from '../../model/kubernetes/object.js';
import { DRY_RUN } from '../../model/kubernetes/security.js';
import { type WarningFacts, warningsOf } from '../mesh/warnings.js';
import { unreadKind } from './unread-kinds.js';

/** What the API server asks (admission.k8s.io/v1), as far as it matters here. */
export interface AdmissionRequest {
  readonly uid: string;
  readonly operation: string;
  /** Empty for the object itself. */
  readonly subResource: string;
  readonly group: string;
  readonly kind: string;
  readonly namespace: string;
  /** As JSON gave it. */
  readonly object: unknown;
  readonly oldObject: unknown;
}

export interface Verdict {
  readonly allowed: boolean;
  /** Why not, for people: what, which field, and what is likely meant. */
  readonly message: string;
  readonly warnings: readonly string[];
}

/** Error: what is wrong with what was sent, which is no review then. Nothing in it is believed to be well-formed. */
export function readAdmissionReview(body: unknown): Result<AdmissionRequest> {
  if (!isRecord(body) || body.kind !== 'AdmissionReview') return err('the body is no AdmissionReview');
  if (body.apiVersion !== 'admission.k8s.io/v1')
    return err('the body is no AdmissionReview of admission.k8s.io/v1, the one that is understood');
  const { request } = body;
  if (!isRecord(request)) return err('the AdmissionReview has no request');
  const uid = text(request.uid);
  if (uid === '' || uid.length > MAX_UID_LENGTH) return err('the request has no uid');
  const kind = isRecord(request.kind) ? request.kind : {};
  return ok({
    uid,
    operation: text(request.operation),
    subResource: text(request.subResource),
    group: text(kind.group),
    kind: text(kind.kind),
    namespace: text(request.namespace),
    object: request.object,
    oldObject: request.oldObject,
  });
}

/**
 * Judges one request by the parser that reads the cluster. Pure. `facts` are of the mesh, for warnings only: they never
 * decide whether something is let in. An update that leaves a bad object's spec as it was is let in with a warning, so
 * that it can be labelled, finalized and deleted.
 */
export function judge(request: AdmissionRequest, facts: WarningFacts | undefined): Verdict {
  const { operation, subResource, group, kind, object } = request;
  if ((operation !== 'CREATE' && operation !== 'UPDATE') || subResource !== '') return ALLOWED;
  if (!isRecord(object)) return refused(`${kind || 'the object'}: there is no object in the request`);
  if (kind === PROBE_KIND) return judgeProbe(object);
  const because = unreadKind(group, kind);
  if (because !== undefined) return allowed([`${kind} ${nameOf(object)} has no effect: ${because}`]);
  const parsed = parseObject(completed(object, request.namespace));
  if (parsed.ok) {
    if ('ignored' in parsed.value) return ALLOWED;
    const known = parsed.value.object;
    return allowed(
      facts === undefined ? [] : warningsOf(known, facts).map((sentence) => `${idOf(known)}: ${sentence}`),
    );
  }
  const { object: name, problems } = parsed.error;
  // Kubernetes' own kinds are Kubernetes' to refuse.
  if (!group.endsWith('.istio.io')) return allowed([`${name} is not understood: ${listed(problems, '; ')}`]);
  if (operation === 'UPDATE' && (isDeleted(object) || hasSameSpec(object, request.oldObject))) {
    return allowed([`${name} was no good before and is not in force: ${listed(problems, '; ')}`]);
  }
  return refused(problems.length === 1 ? `${name}: ${problems[0]}` : `${name}:\n- ${listed(problems, '\n- ')}`);
}

/** The answer as the API server reads it. Warnings beyond what it passes on are left out. */
export function answerOf({ uid }: AdmissionRequest, { allowed, message, warnings }: Verdict): unknown {
  return {
    apiVersion: 'admission.k8s.io/v1',
    kind: 'AdmissionReview',
    response: {
      uid,
      allowed,
      ...(allowed ? {} : { status: { code: 400, reason: 'BadRequest', message } }),
      ...(warnings.length === 0 ? {} : { warnings: shortened(warnings) }),
    },
  };
}

/** What a probe is answered with; see `probeObject`. */
export function probeAnswer(nonce: string): string {
  return `the validating webhook answers to probe ${nonce}`;
}

/**
 * An object that is always refused, with `probeAnswer`: who writes it, without meaning it, learns whether the API server
 * reaches a webhook of ours.
 */
export function probeObject(namespace: string, nonce: string) {
  return {
    apiVersion: 'v1',
    kind: PROBE_KIND,
    metadata: { name: `meltemi-webhook-probe-${nonce}`, namespace, labels: { [PROBE_LABEL]: nonce } },
  };
}

function judgeProbe(object: Readonly<Record<string, unknown>>): Verdict {
  const labels = isRecord(object.metadata) && isRecord(object.metadata.labels) ? object.metadata.labels : {};
  const nonce = text(labels[PROBE_LABEL]);
  return nonce === '' ? ALLOWED : refused(probeAnswer(nonce));
}

/** With the name and the namespace that the API server is about to give it. */
function completed(object: Readonly<Record<string, unknown>>, namespace: string): unknown {
  if (!isRecord(object.metadata)) return object;
  const { name, generateName } = object.metadata;
  const isUnnamed = (name === undefined || name === '') && typeof generateName === 'string' && generateName !== '';
  return {
    ...object,
    metadata: {
      ...(namespace === '' ? {} : { namespace }),
      ...object.metadata,
      ...(isUnnamed ? { name: `${generateName}0` } : {}),
    },
  };
}

function nameOf(object: Readonly<Record<string, unknown>>): string {
  const metadata = isRecord(object.metadata) ? object.metadata : {};
  const name = text(metadata.name) || `${text(metadata.generateName)}…`;
  return text(metadata.namespace) === '' ? name : `${text(metadata.namespace)}/${name}`;
}

function isDeleted(object: Readonly<Record<string, unknown>>): boolean {
  return isRecord(object.metadata) && typeof object.metadata.deletionTimestamp === 'string';
}

function hasSameSpec(object: Readonly<Record<string, unknown>>, oldObject: unknown): boolean {
  return isRecord(oldObject) && isDeepStrictEqual(object.spec, oldObject.spec) && dryRun(object) === dryRun(oldObject);
}

/** The one annotation that is judged. */
function dryRun({ metadata }: Readonly<Record<string, unknown>>): unknown {
  return isRecord(metadata) && isRecord(metadata.annotations) ? metadata.annotations[DRY_RUN] : undefined;
}

function listed(problems: readonly string[], separator: string): string {
  const shown = problems.slice(0, MAX_PROBLEMS).map((problem) => problem.slice(0, MAX_PROBLEM_LENGTH));
  const more = problems.length - shown.length;
  return [...shown, ...(more > 0 ? [`and ${more} more`] : [])].join(separator);
}

/** The API server cuts at 256 characters each and 4096 in all, without saying so. */
function shortened(warnings: readonly string[]): readonly string[] {
  const shown: string[] = [];
  let length = 0;
  for (const warning of warnings) {
    const short = warning.length > MAX_WARNING_LENGTH ? `${warning.slice(0, MAX_WARNING_LENGTH - 1)}…` : warning;
    length += Buffer.byteLength(short);
    if (length > MAX_WARNINGS_BYTES) return [...shown, `and ${warnings.length - shown.length} more, see /debug/status`];
    shown.push(short);
  }
  return shown;
}

function allowed(warnings: readonly string[]): Verdict {
  return { allowed: true, message: '', warnings };
}

function refused(message: string): Verdict {
  return { allowed: false, message, warnings: [] };
}

function text(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

const ALLOWED: Verdict = { allowed: true, message: '', warnings: [] };
const PROBE_KIND = 'ConfigMap';
export const PROBE_LABEL = 'meltemi.io/webhook-probe';
const MAX_UID_LENGTH = 256;
const MAX_PROBLEMS = 20;
const MAX_PROBLEM_LENGTH = 500;
const MAX_WARNING_LENGTH = 250;
const MAX_WARNINGS_BYTES = 3_900;
