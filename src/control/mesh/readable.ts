import { createRegistry, type DescMessage, type JsonValue, type MessageShape, toJson } from '@bufbuild/protobuf';
import { StringValueSchema } from '@bufbuild/protobuf/wkt';
import { ipFromBytes } from '../../lib/ip.js';

/** A message as JSON for people: addresses as text instead of base64. Default values are left out. */
export function readable<D extends DescMessage>(schema: D, message: MessageShape<D>): JsonValue {
  return withAddresses(toJson(schema, message, { registry: EXTENSIONS }), '');
}

function withAddresses(value: JsonValue, field: string): JsonValue {
  if (Array.isArray(value)) return value.map((each) => withAddresses(each, field));
  if (typeof value === 'string') return ADDRESS_FIELDS.has(field) ? (ipOf(value) ?? value) : value;
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, withAddresses(each, name)]));
}

function ipOf(base64: string): string | undefined {
  return ipFromBytes(Buffer.from(base64, 'base64'));
}

/** What extensions of ours hold. */
const EXTENSIONS = createRegistry(StringValueSchema);
const ADDRESS_FIELDS: ReadonlySet<string> = new Set(['address', 'addresses']);
