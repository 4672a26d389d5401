import { err, ok, type Result } from '../lib/result.js';

/** `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`, the only shape a workload identity has here. */
export interface SpiffeId {
  readonly trustDomain: string;
  readonly namespace: string;
  readonly serviceAccount: string;
}

export function formatSpiffeId(id: SpiffeId): string {
  return `spiffe://${id.trustDomain}/ns/${id.namespace}/sa/${id.serviceAccount}`;
}

/** Error: a sentence that quotes the text and says what shape was expected. */
export function parseSpiffeId(text: string): Result<SpiffeId> {
  const match = text.length <= MAX_SPIFFE_ID_LENGTH ? SHAPE.exec(text) : null;
  if (match === null) {
    return err(
      `${JSON.stringify(text.slice(0, 200))} is not spiffe://<trust domain>/ns/<namespace>/sa/<service account>`,
    );
  }
  const [, trustDomain = '', namespace = '', serviceAccount = ''] = match;
  return ok({ trustDomain, namespace, serviceAccount });
}

const SHAPE =
  /^spiffe:\/\/([a-z0-9._-]+)\/ns\/([a-z0-9](?:[a-z0-9-]*[a-z0-9])?)\/sa\/([a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)$/;
/** The SPIFFE standard's limit, bytes. */
const MAX_SPIFFE_ID_LENGTH = 2048;
