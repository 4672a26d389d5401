import type { IncomingMessage } from 'node:http';
import { ApiError, type ApiObject } from './api.js';
import { messageOf } from './connection.js';
import { ListSplitter } from './list-splitter.js';
import type { Shape } from './protobuf-shape.js';
import { ProtobufSplitter } from './protobuf-splitter.js';

export const PROTOBUF_TYPE = 'application/vnd.kubernetes.protobuf';

/**
 * The objects of a list, each as it arrives; in protobuf, of which `shape` is read, or in JSON. Resolves with the list's
 * resource version. Rejects with an `ApiError` of status 0 when the connection breaks or what comes is no list.
 */
export async function readList(
  answer: IncomingMessage,
  name: string,
  shape: Shape | undefined,
  each: (object: ApiObject) => void,
): Promise<string> {
  const isProtobuf = answer.headers['content-type']?.startsWith(PROTOBUF_TYPE) === true;
  const splitter = isProtobuf && shape !== undefined ? protobufList(shape, each) : jsonList(each);
  try {
    for await (const piece of answer) splitter.push(piece as Buffer);
    return splitter.end();
  } catch (error) {
    throw new ApiError(0, '', `${name}: the answer broke off, or is no list: ${messageOf(error)}`);
  }
}

interface Splitter {
  push(chunk: Buffer): void;
  /** The list's resource version. */
  end(): string;
}

function jsonList(each: (object: ApiObject) => void): Splitter {
  const splitter = new ListSplitter((element) => each(JSON.parse(element) as ApiObject));
  return {
    push: (chunk) => splitter.push(chunk),
    end() {
      const { metadata } = JSON.parse(splitter.end()) as { metadata?: { resourceVersion?: string } };
      return metadata?.resourceVersion ?? '';
    },
  };
}

function protobufList(shape: Shape, each: (object: ApiObject) => void): Splitter {
  const splitter = new ProtobufSplitter(shape, (object) => each(object as ApiObject));
  return {
    push: (chunk) => splitter.push(chunk),
    end() {
      splitter.end();
      return splitter.resourceVersion;
    },
  };
}
