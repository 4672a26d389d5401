import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { AnySchema, StringValueSchema } from '@bufbuild/protobuf/wkt';
import { Action, type Authorization, AuthorizationSchema, type Scope } from '../gen/istio/security/authorization_pb.js';

/** A policy that stands for one that is no good: it denies everything in its scope. `problem` says what is wrong. */
export function invalidAuthorization(namespace: string, name: string, scope: Scope, problem: string): Authorization {
  const text = problem.length > MAX_LENGTH ? `${problem.slice(0, MAX_LENGTH - 1)}…` : problem;
  const value = toBinary(StringValueSchema, create(StringValueSchema, { value: text }));
  return create(AuthorizationSchema, {
    name,
    namespace,
    scope,
    action: Action.DENY,
    // A rule without clauses matches always.
    rules: [{ clauses: [] }],
    extensions: [{ name: EXTENSION, config: create(AnySchema, { typeUrl: TYPE, value }) }],
  });
}

/** What is wrong with the policy that this one stands for; undefined for one that says what it means. */
export function problemOf({ extensions }: Pick<Authorization, 'extensions'>): string | undefined {
  const config = extensions.find(({ name }) => name === EXTENSION)?.config;
  if (config === undefined) return undefined;
  try {
    return fromBinary(StringValueSchema, config.value).value;
  } catch {
    return 'it does not say';
  }
}

/** Whoever does not know it sees a policy that denies everything. */
const EXTENSION = 'meltemi.io/invalid';
const TYPE = 'type.googleapis.com/google.protobuf.StringValue';
const MAX_LENGTH = 300;
