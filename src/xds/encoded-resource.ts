import { hash } from 'node:crypto';
import { fromBinary } from '@bufbuild/protobuf';
import { DeltaDiscoveryResponseSchema } from '../gen/envoy/service/discovery/v3/discovery_pb.js';
import type { ServedResource } from './resource-source.js';

export interface ResourceInput {
  readonly name: string;
  readonly aliases?: readonly string[];
  /** The encoded message. Equal content must have equal bytes: fill maps in a fixed order. */
  readonly bytes: Uint8Array;
}

/** A resource as it is sent. Two of one name are the same if their versions are. */
export class EncodedResource implements ServedResource {
  readonly name: string;
  readonly version: string;
  readonly aliases: readonly string[];
  readonly frame: Uint8Array;
  #frameWithAliases: Uint8Array | undefined;

  constructor(
    readonly typeUrl: string,
    { name, aliases = NONE, bytes }: ResourceInput,
  ) {
    if (name === '') throw new Error(`a resource of ${typeUrl} has no name`);
    this.name = name;
    this.aliases = aliases;
    this.version = versionOf(bytes, aliases);
    this.frame = encodeFrame(this, bytes, NONE);
  }

  /** The encoded message. */
  get bytes(): Uint8Array {
    const [resource] = fromBinary(DeltaDiscoveryResponseSchema, this.frame).resources;
    if (resource?.resource === undefined) throw new Error(`${this.name}: its own frame holds no resource`);
    return resource.resource.value;
  }

  get frameWithAliases(): Uint8Array {
    if (this.aliases.length === 0) return this.frame;
    this.#frameWithAliases ??= encodeFrame(this, this.bytes, this.aliases);
    return this.#frameWithAliases;
  }
}

/** A response that holds nothing but this resource: exactly its part of any response. Written by hand, for speed. */
function encodeFrame(
  { typeUrl, name, version }: EncodedResource,
  bytes: Uint8Array,
  aliases: readonly string[],
): Uint8Array {
  const anySize = sizeOf(Buffer.byteLength(typeUrl)) + sizeOf(bytes.length);
  const aliasesSize = aliases.reduce((sum, alias) => sum + sizeOf(Buffer.byteLength(alias)), 0);
  const size = sizeOf(version.length) + sizeOf(anySize) + sizeOf(Buffer.byteLength(name)) + aliasesSize;
  const frame = Buffer.allocUnsafeSlow(sizeOf(size));
  let at = head(frame, 0, RESOURCES, size);
  at = text(frame, at, VERSION, version);
  at = head(frame, at, RESOURCE, anySize);
  at = text(frame, at, TYPE_URL, typeUrl);
  at = head(frame, at, VALUE, bytes.length);
  frame.set(bytes, at);
  at = text(frame, at + bytes.length, NAME, name);
  for (const alias of aliases) at = text(frame, at, ALIASES, alias);
  return frame;
}

/** Of a field with its head, when its content has this size. */
function sizeOf(content: number): number {
  let size = content + 2;
  for (let rest = content >>> 7; rest > 0; rest >>>= 7) size++;
  return size;
}

function head(frame: Buffer, from: number, field: number, size: number): number {
  let at = from;
  frame[at++] = (field << 3) | LENGTH_DELIMITED;
  let rest = size;
  for (; rest > 0x7f; rest >>>= 7) frame[at++] = (rest & 0x7f) | 0x80;
  frame[at++] = rest;
  return at;
}

function text(frame: Buffer, from: number, field: number, value: string): number {
  const at = head(frame, from, field, Buffer.byteLength(value));
  return at + frame.write(value, at);
}

function versionOf(bytes: Uint8Array, aliases: readonly string[]): string {
  const all = aliases.length === 0 ? bytes : Buffer.concat([bytes, Buffer.from(`\0${aliases.join('\0')}`)]);
  return hash('sha256', all, 'base64url').slice(0, VERSION_LENGTH);
}

const NONE: readonly string[] = [];
/** 96 bits. */
const VERSION_LENGTH = 16;
const LENGTH_DELIMITED = 2;
/** Fields of DeltaDiscoveryResponse, Resource and Any. */
const RESOURCES = 2;
const [VERSION, RESOURCE, NAME, ALIASES] = [1, 2, 3, 4];
const [TYPE_URL, VALUE] = [1, 2];
