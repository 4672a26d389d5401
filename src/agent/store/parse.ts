import { fromBinary } from '@bufbuild/protobuf';
import {
  type Authorization,
  AuthorizationSchema,
  type Match,
  type Scope,
} from '../../gen/istio/security/authorization_pb.js';
import { type Address, AddressSchema, type Service, type Workload } from '../../gen/istio/workload/workload_pb.js';
import { err, ok, type Result } from '../../lib/result.js';
import { serviceKey, vipsOf } from './facts.js';

/** One `istio.workload.Address` resource. Error: what is wrong with it, naming the resource. */
export function parseAddress(name: string, bytes: Uint8Array): Result<Workload | Service> {
  let message: Address;
  try {
    message = fromBinary(AddressSchema, bytes);
  } catch (error) {
    return err(`address ${name}: not an istio.workload.Address (${(error as Error).message})`);
  }
  const { type } = message;
  if (type.case === 'workload') return checkWorkload(name, type.value);
  if (type.case === 'service') return checkService(name, type.value);
  return err(`address ${name}: holds neither a workload nor a service`);
}

/** One `istio.security.Authorization` resource. Error: what is wrong with it, naming policy and rule. */
export function parsePolicy(name: string, bytes: Uint8Array): Result<Authorization> {
  let policy: Authorization;
  try {
    policy = fromBinary(AuthorizationSchema, bytes);
  } catch (error) {
    return err(`policy ${name}: not an istio.security.Authorization (${(error as Error).message})`);
  }
  if (policy.name === '') return err(`policy ${name}: has no name`);
  if (`${policy.namespace}/${policy.name}` !== name) {
    return err(`policy ${name}: carries the name ${policy.namespace}/${policy.name}`);
  }
  for (const [index, rule] of policy.rules.entries()) {
    for (const match of rule.clauses.flatMap((clause) => clause.matches)) {
      const wrong = wrongIn(match);
      if (wrong !== undefined) return err(`policy ${name}: rule ${index} ${wrong}`);
    }
  }
  return ok(policy);
}

/** Whom a policy that is no good is for; undefined where it does not even say who it is, or cannot be decoded. */
export function scopeIn(name: string, bytes: Uint8Array): Scope | undefined {
  try {
    const policy = fromBinary(AuthorizationSchema, bytes);
    return `${policy.namespace}/${policy.name}` === name ? policy.scope : undefined;
  } catch {
    return undefined;
  }
}

function checkWorkload(name: string, workload: Workload): Result<Workload> {
  if (workload.uid === '') return err(`workload ${name}: has no uid`);
  if (workload.uid !== name) return err(`workload ${name}: carries the uid ${workload.uid}`);
  const bad = workload.addresses.find((bytes) => bytes.length !== 4 && bytes.length !== 16);
  if (bad !== undefined) return err(`workload ${name}: an address has ${bad.length} bytes, not 4 or 16`);
  return ok(workload);
}

function checkService(name: string, service: Service): Result<Service> {
  const key = serviceKey(service);
  if (service.hostname === '') return err(`service ${name}: has no hostname`);
  if (key !== name) return err(`service ${name}: carries the name ${key}`);
  if (vipsOf(service).length !== service.addresses.length) {
    return err(`service ${name}: an address is neither 4 nor 16 bytes, or its prefix length does not fit`);
  }
  return ok(service);
}

function wrongIn(match: Match): string | undefined {
  for (const { address, length } of [
    ...match.sourceIps,
    ...match.notSourceIps,
    ...match.destinationIps,
    ...match.notDestinationIps,
  ]) {
    if (address.length !== 4 && address.length !== 16) return `names an address of ${address.length} bytes`;
    if (length > address.length * 8) return `names a prefix of ${length} bits`;
  }
  const strings = [...match.namespaces, ...match.notNamespaces, ...match.principals, ...match.notPrincipals];
  if (strings.some(({ matchType }) => matchType.case === undefined)) return 'has a string match of an unknown kind';
  return undefined;
}
