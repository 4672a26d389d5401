import type { IncomingMessage } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  ApiError,
  type ApiObject,
  type KubeApi,
  type ObjectName,
  type Page,
  type Resource,
  type Selection,
  type WatchEvent,
  type Write,
} from './api.js';
import { bodyOf, type Connection, type Exchange, nameOf, send } from './connection.js';
import { PROTOBUF_TYPE, readList } from './list-stream.js';
import { apiVersionOf, pathOf, queryOf } from './paths.js';
import { readWatch } from './watch-stream.js';

/** How patient; all have defaults. */
export interface HttpApiOptions {
  /** Longest silence in an answer, ms. */
  readonly silenceMs?: number;
  /** Longest silence of a watch, ms. The server sends a bookmark about every minute. */
  readonly watchSilenceMs?: number;
}

/** The API server over a connection, which it owns. */
export class HttpApi implements KubeApi {
  readonly #connection: Connection;
  readonly #silenceMs: number;
  readonly #watchSilenceMs: number;

  constructor(connection: Connection, options: HttpApiOptions = {}) {
    this.#connection = connection;
    this.#silenceMs = options.silenceMs ?? SILENCE_MS;
    this.#watchSilenceMs = options.watchSilenceMs ?? WATCH_SILENCE_MS;
  }

  async get(resource: Resource, name: ObjectName): Promise<ApiObject | undefined> {
    try {
      return (await this.request('GET', pathOf(resource, name))) as ApiObject;
    } catch (error) {
      if (isMissing(error)) return undefined;
      throw error;
    }
  }

  async list(
    resource: Resource,
    selection: Selection = {},
    { limit = PAGE_OBJECTS, from }: { limit?: number; from?: string } = {},
  ): Promise<Page> {
    const query = queryOf(selection, { limit: String(limit), continue: from });
    const list = (await this.#json({
      method: 'GET',
      path: pathOf(resource, { namespace: selection.namespace }) + query,
      headers: accept(selection, 'PartialObjectMetadataList'),
      silenceMs: this.#silenceMs,
    })) as { metadata?: { resourceVersion?: string; continue?: string }; items?: ApiObject[] | null };
    return {
      items: (list.items ?? []).map((item) => received(resource, item)),
      resourceVersion: list.metadata?.resourceVersion ?? '',
      next: list.metadata?.continue || undefined,
    };
  }

  async listAll(
    resource: Resource,
    selection: Selection,
    notBefore: string,
    each: (object: ApiObject) => void,
    signal?: AbortSignal,
  ): Promise<string> {
    const exchange: Exchange = {
      method: 'GET',
      path:
        pathOf(resource, { namespace: selection.namespace }) +
        queryOf(selection, notBefore === '' ? {} : { resourceVersion: notBefore }),
      headers:
        selection.shape === undefined
          ? accept(selection, 'PartialObjectMetadataList')
          : { accept: `${PROTOBUF_TYPE}, ${JSON_TYPE}` },
      silenceMs: this.#silenceMs,
      ...(signal === undefined ? {} : { signal }),
    };
    const answer = await this.#answered(exchange);
    return readList(answer, nameOf(exchange), selection.shape, (object) => each(received(resource, object)));
  }

  async *watch(
    resource: Resource,
    selection: Selection,
    resourceVersion: string,
    signal: AbortSignal,
  ): AsyncGenerator<WatchEvent, void, undefined> {
    // The server ends it then, at different times for different watches, so that they do not all come back at once.
    const timeoutSeconds = Math.round(MIN_WATCH_SECONDS * (1 + Math.random()));
    const exchange: Exchange = {
      method: 'GET',
      path:
        pathOf(resource, { namespace: selection.namespace }) +
        queryOf(selection, {
          watch: '1',
          allowWatchBookmarks: 'true',
          resourceVersion,
          timeoutSeconds: String(timeoutSeconds),
        }),
      headers: accept(selection, 'PartialObjectMetadata'),
      silenceMs: this.#watchSilenceMs,
      signal,
    };
    const answer = await this.#answered(exchange);
    try {
      for await (const event of readWatch(answer, `WATCH ${resource.plural}`)) {
        yield event.type === 'bookmark' ? event : { type: event.type, object: received(resource, event.object) };
      }
    } finally {
      answer.destroy();
    }
  }

  async create(resource: Resource, object: ApiObject, write: Write = {}): Promise<ApiObject> {
    const { namespace, name } = object.metadata;
    const { subresource } = write;
    const path = pathOf(resource, { namespace, ...(subresource === undefined ? {} : { name }), subresource });
    return this.#write('POST', path, named(resource, object), write, JSON_TYPE);
  }

  async replace(resource: Resource, object: ApiObject, write: Write = {}): Promise<ApiObject> {
    const { namespace, name } = object.metadata;
    const path = pathOf(resource, { namespace, name, subresource: write.subresource });
    return this.#write('PUT', path, named(resource, object), write, JSON_TYPE);
  }

  async apply(
    resource: Resource,
    object: ApiObject,
    write: Write & { readonly force?: boolean } = {},
  ): Promise<ApiObject> {
    const { namespace, name } = object.metadata;
    const path = pathOf(resource, { namespace, name, subresource: write.subresource });
    const force = write.force === true ? { force: 'true' } : {};
    return this.#write('PATCH', path, named(resource, object), write, 'application/apply-patch+yaml', force);
  }

  async patch(resource: Resource, name: ObjectName, patch: unknown, write: Write = {}): Promise<ApiObject> {
    const path = pathOf(resource, { ...name, subresource: write.subresource });
    return this.#write('PATCH', path, patch, write, 'application/merge-patch+json');
  }

  async delete(
    resource: Resource,
    name: ObjectName,
    options: {
      readonly gracePeriodSeconds?: number;
      readonly propagation?: 'Foreground' | 'Background' | 'Orphan';
    } = {},
  ): Promise<boolean> {
    const { gracePeriodSeconds, propagation: propagationPolicy } = options;
    const body = { kind: 'DeleteOptions', apiVersion: 'v1', gracePeriodSeconds, propagationPolicy };
    try {
      await this.request('DELETE', pathOf(resource, name), body);
      return true;
    } catch (error) {
      if (isMissing(error)) return false;
      throw error;
    }
  }

  async request(method: 'GET' | 'POST' | 'PUT' | 'DELETE', path: string, body?: unknown): Promise<unknown> {
    const text = body === undefined ? {} : { body: JSON.stringify(body), headers: { 'content-type': JSON_TYPE } };
    return this.#json({ method, path, silenceMs: this.#silenceMs, ...text });
  }

  close(): void {
    this.#connection.close();
  }

  async #write(
    method: string,
    path: string,
    value: unknown,
    { dryRun, fieldManager = FIELD_MANAGER }: Write,
    contentType: string,
    more: Readonly<Record<string, string>> = {},
  ): Promise<ApiObject> {
    const query = queryOf({}, { fieldManager, dryRun: dryRun === true ? 'All' : undefined, ...more });
    return (await this.#json({
      method,
      path: path + query,
      headers: { 'content-type': contentType },
      body: JSON.stringify(value),
      silenceMs: this.#silenceMs,
    })) as ApiObject;
  }

  async #json(exchange: Exchange): Promise<unknown> {
    const answer = await this.#answered(exchange);
    const text = await bodyOf(answer, exchange);
    try {
      return text === '' ? undefined : JSON.parse(text);
    } catch {
      // Some pages, like /readyz, are words.
      return text;
    }
  }

  /** The answer when it is a good one. What the server turned away unread (too many requests) is sent again. */
  async #answered(exchange: Exchange): Promise<IncomingMessage> {
    for (let attempt = 0; ; attempt++) {
      const answer = await send(this.#connection, exchange);
      const status = answer.statusCode ?? 0;
      if (status >= 200 && status < 300) return answer;
      const error = refusal(exchange, answer, await bodyOf(answer, exchange));
      if (status === 401 && attempt === 0) {
        this.#connection.distrust();
      } else if (status === 429 && error.retryAfterMs !== undefined && attempt < MAX_ATTEMPTS) {
        await sleep(error.retryAfterMs);
      } else {
        throw error;
      }
    }
  }
}

function refusal(exchange: Exchange, answer: IncomingMessage, text: string): ApiError {
  const status = answer.statusCode ?? 0;
  const seconds = Number(answer.headers['retry-after']);
  const { reason, message } = statusOf(text);
  const cause = CAUSES[status];
  return new ApiError(
    status,
    reason,
    `${nameOf(exchange)}: ${status} ${reason || answer.statusMessage || ''}: ${message}${cause ? ` (${cause})` : ''}`,
    Number.isFinite(seconds) && seconds > 0 ? seconds * 1000 : undefined,
  );
}

/** A `Status` object, or plain words. */
function statusOf(text: string): { readonly reason: string; readonly message: string } {
  try {
    const { reason, message } = JSON.parse(text) as { reason?: unknown; message?: unknown };
    return { reason: typeof reason === 'string' ? reason : '', message: typeof message === 'string' ? message : text };
  } catch {
    return { reason: '', message: text.trim().slice(0, MAX_WORDS) };
  }
}

/** Who has managed which field is large and nobody's business here. Elements of lists do not say what they are. */
function received(resource: Resource, object: ApiObject): ApiObject {
  const raw = object as { apiVersion?: string; kind?: string; metadata: Record<string, unknown> };
  delete raw.metadata.managedFields;
  raw.apiVersion = apiVersionOf(resource);
  raw.kind = resource.kind;
  return object;
}

function named(resource: Resource, object: ApiObject): ApiObject {
  return { apiVersion: apiVersionOf(resource), kind: resource.kind, ...object };
}

function accept({ metadataOnly }: Selection, as: string): Readonly<Record<string, string>> {
  return metadataOnly === true ? { accept: `application/json;as=${as};g=meta.k8s.io;v=v1` } : {};
}

function isMissing(error: unknown): boolean {
  return error instanceof ApiError && error.status === 404;
}

const CAUSES: Readonly<Record<number, string>> = {
  401: 'the token or certificate is not accepted: it may have expired, or be meant for another cluster',
  403: 'a role is missing or was not bound to this account',
};
const JSON_TYPE = 'application/json';
const FIELD_MANAGER = 'meltemi';
const SILENCE_MS = 30_000;
const WATCH_SILENCE_MS = 150_000;
const MIN_WATCH_SECONDS = 300;
const PAGE_OBJECTS = 500;
const MAX_ATTEMPTS = 5;
const MAX_WORDS = 500;
