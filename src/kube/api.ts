import type { Shape } from './protobuf-shape.js';

/** A kind as the API server's paths know it. */
export interface Resource {
  /** Empty for the core group. */
  readonly group: string;
  readonly version: string;
  /** Plural, lower case: `pods`. */
  readonly plural: string;
  readonly kind: string;
  readonly namespaced: boolean;
}

export interface ObjectName {
  /** Left out for cluster-scoped kinds. */
  readonly namespace?: string;
  readonly name: string;
}

/** Any object, as JSON gave it; what is inside is parsed by `src/model`. */
export interface ApiObject {
  readonly apiVersion?: string;
  readonly kind?: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly uid?: string;
    readonly resourceVersion?: string;
    readonly [field: string]: unknown;
  };
  readonly [field: string]: unknown;
}

/** Which objects of a kind; every field narrows. */
export interface Selection {
  readonly namespace?: string;
  readonly fieldSelector?: string;
  readonly labelSelector?: string;
  /** Nothing but names, labels, annotations and their like is sent. */
  readonly metadataOnly?: boolean;
  /** Of kinds that Kubernetes itself defines: only these fields are read when everything is listed, which then costs little. */
  readonly shape?: Shape;
}

export interface Page {
  readonly items: readonly ApiObject[];
  readonly resourceVersion: string;
  /** Where the next page starts; undefined after the last. */
  readonly next: string | undefined;
}

export type WatchEvent =
  | { readonly type: 'added' | 'modified' | 'deleted'; readonly object: ApiObject }
  | { readonly type: 'bookmark'; readonly resourceVersion: string };

export interface Write {
  readonly subresource?: string;
  /** Checked by the server, not kept. */
  readonly dryRun?: boolean;
  /** Defaults to `meltemi`. */
  readonly fieldManager?: string;
}

/** What the API server answered instead of what was asked for. */
export class ApiError extends Error {
  constructor(
    /** HTTP status; 0 when there was no answer. */
    readonly status: number,
    /** The server's reason (`NotFound`, `Conflict`, `Expired`, …); empty when it gave none. */
    readonly reason: string,
    message: string,
    /** Asked by the server to wait this long, ms. */
    readonly retryAfterMs: number | undefined = undefined,
  ) {
    super(message);
  }
}

/** The API server. Every method rejects with `ApiError`, whose message names method, object and likely cause. */
export interface KubeApi {
  /** Undefined when there is no such object. */
  get(resource: Resource, name: ObjectName): Promise<ApiObject | undefined>;
  /** One page, of 500 objects unless told; `from` is a former page's `next`. */
  list(resource: Resource, selection?: Selection, page?: { limit?: number; from?: string }): Promise<Page>;
  /**
   * Everything there is, one object after another as it arrives; resolves with the resource version of it all. It is no
   * older than `notBefore`: `0` takes whatever the server has in memory, which is the quickest; an empty one asks storage.
   */
  listAll(
    resource: Resource,
    selection: Selection,
    notBefore: string,
    each: (object: ApiObject) => void,
    signal?: AbortSignal,
  ): Promise<string>;
  /**
   * Changes after `resourceVersion`, with bookmarks. Ends when the server ends it; throws `ApiError` 410 when the
   * version is too old.
   */
  watch(
    resource: Resource,
    selection: Selection,
    resourceVersion: string,
    signal: AbortSignal,
  ): AsyncIterable<WatchEvent>;
  /** With a subresource, the object's name says of what: `eviction` of a pod, `token` of a service account. */
  create(resource: Resource, object: ApiObject, write?: Write): Promise<ApiObject>;
  /** Whole; refused with 409 when the object's resourceVersion is not the newest. */
  replace(resource: Resource, object: ApiObject, write?: Write): Promise<ApiObject>;
  /** Server-side apply; `force` takes over fields that others manage. */
  apply(resource: Resource, object: ApiObject, write?: Write & { readonly force?: boolean }): Promise<ApiObject>;
  /** A JSON merge patch (RFC 7386). */
  patch(resource: Resource, name: ObjectName, patch: unknown, write?: Write): Promise<ApiObject>;
  /** False when there was none. */
  delete(
    resource: Resource,
    name: ObjectName,
    options?: { readonly gracePeriodSeconds?: number; readonly propagation?: 'Foreground' | 'Background' | 'Orphan' },
  ): Promise<boolean>;
  /** Any other path, as JSON: `/version`, `/apis`, a subresource. */
  request(method: 'GET' | 'POST' | 'PUT' | 'DELETE', path: string, body?: unknown): Promise<unknown>;
  close(): void;
}
