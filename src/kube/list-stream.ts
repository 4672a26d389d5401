import { ApiError, type ApiObject } from './api.js';
import { messageOf } from './connection.js';
import { ListSplitter } from './list-splitter.js';

/**
 * The objects of a list, each as it arrives. Resolves with the list's resource version. Rejects with an `ApiError` of
 * status 0 when the connection breaks or what comes is no list.
 */
export async function readList(
  body: AsyncIterable<unknown>,
  name: string,
  each: (object: ApiObject) => void,
): Promise<string> {
  const splitter = new ListSplitter((element) => each(parse(element, name) as ApiObject));
  try {
    for await (const piece of body) splitter.push(piece as Buffer);
  } catch (error) {
    if (error instanceof ApiError) throw error;
    throw new ApiError(0, '', `${name}: the answer broke off: ${messageOf(error)}`);
  }
  const list = parse(splitter.end(), name) as { readonly metadata?: { readonly resourceVersion?: string } };
  return list.metadata?.resourceVersion ?? '';
}

function parse(text: string, name: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new ApiError(0, '', `${name}: this is no JSON: ${text.slice(0, MAX_SHOWN)}`);
  }
}

const MAX_SHOWN = 200;
