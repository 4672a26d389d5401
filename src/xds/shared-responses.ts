import { create, toBinary } from '@bufbuild/protobuf';
import { DeltaDiscoveryResponseSchema as Response } from '../gen/envoy/service/discovery/v3/discovery_pb.js';
import type { ResourceSource } from './resource-source.js';
import type { Push } from './server-type.js';

export interface EncodedResponse {
  readonly nonce: string;
  readonly bytes: Uint8Array;
}

/**
 * Encodes responses. Streams that are to be told the same, one after another, share one encoding, nonce and all: a nonce
 * need only be unique within a stream.
 */
export class SharedResponses {
  readonly #last = new Map<ResourceSource, EncodedResponse & { readonly push: Push; readonly version: number }>();
  #nonce = 0;

  /** `formerNonce` is that of the stream's last response, which must have another one. */
  encode(source: ResourceSource, push: Push, formerNonce: string): EncodedResponse {
    const last = this.#last.get(source);
    if (last?.version === source.version && last.nonce !== formerNonce && isSame(last.push, push)) return last;
    const nonce = String(++this.#nonce);
    const made = { push, version: source.version, nonce, bytes: encodeResponse(source, nonce, push) };
    this.#last.set(source, made);
    return made;
  }
}

function isSame(a: Push, b: Push): boolean {
  return a.withAliases === b.withAliases && sameElements(a.changed, b.changed) && sameElements(a.removed, b.removed);
}

function sameElements(a: readonly unknown[], b: readonly unknown[]): boolean {
  if (a === b) return true;
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

/** The parts of a message that every response shares are put behind the few that are this response's own. */
function encodeResponse(source: ResourceSource, nonce: string, push: Push): Uint8Array {
  const own = create(Response, {
    systemVersionInfo: String(source.version),
    typeUrl: source.typeUrl,
    nonce,
    removedResources: [...push.removed],
  });
  const shared = push.changed.map((resource) => (push.withAliases ? resource.frameWithAliases : resource.frame));
  return Buffer.concat([toBinary(Response, own), ...shared]);
}
