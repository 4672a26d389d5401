import { ApiError, type ApiObject, type WatchEvent } from './api.js';
import { messageOf } from './connection.js';

/**
 * The events of a watch, one JSON object a line. Throws the error that the server puts in place of an event, an
 * `ApiError` of status 0 when the connection breaks, and of 410 when history has been compacted.
 */
export async function* readWatch(
  body: AsyncIterable<unknown> & { setEncoding(encoding: 'utf8'): unknown },
  name: string,
): AsyncGenerator<WatchEvent, void, undefined> {
  body.setEncoding('utf8');
  let rest = '';
  try {
    for await (const piece of body) {
      const lines = (rest + String(piece)).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) if (line !== '') yield toEvent(line, name);
    }
  } catch (error) {
    if (error instanceof ApiError) throw error;
    throw new ApiError(0, '', `${name}: cut: ${messageOf(error)}`);
  }
}

function toEvent(line: string, name: string): WatchEvent {
  let event: { readonly type?: string; readonly object?: unknown };
  try {
    event = JSON.parse(line) as typeof event;
  } catch {
    throw new ApiError(0, '', `${name}: a line is no JSON: ${line.slice(0, MAX_SHOWN)}`);
  }
  switch (event.type) {
    case 'ADDED':
      return { type: 'added', object: event.object as ApiObject };
    case 'MODIFIED':
      return { type: 'modified', object: event.object as ApiObject };
    case 'DELETED':
      return { type: 'deleted', object: event.object as ApiObject };
    case 'BOOKMARK': {
      const { metadata } = event.object as ApiObject;
      return { type: 'bookmark', resourceVersion: metadata.resourceVersion ?? '' };
    }
    case 'ERROR': {
      const { code, reason, message } = event.object as { code?: number; reason?: string; message?: string };
      throw new ApiError(code ?? 500, reason ?? '', `${name}: ${code} ${reason}: ${message}`);
    }
    default:
      throw new ApiError(0, '', `${name}: an event is of the unknown type ${JSON.stringify(event.type)}`);
  }
}

const MAX_SHOWN = 200;
