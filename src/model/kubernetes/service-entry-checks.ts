import { canonicalIp } from '../../lib/ip.js';
import type { Fields } from './fields.js';
import { fqdnProblem, isLabel } from './host-names.js';
import type { ServiceEntry, WorkloadEntrySpec } from './networking.js';
import { impossibleLabels } from './selector.js';

/** What each resolution asks of the rest of a ServiceEntry, and what its parts ask of each other. */
export function checkServiceEntry(
  spec: Fields,
  entry: Omit<ServiceEntry, 'kind' | 'metadata' | 'generation' | 'statusAddresses'>,
): void {
  const { resolution, endpoints, hosts } = entry;
  if (spec.has('workloadSelector') && endpoints.length > 0)
    spec.problem('endpoints', 'and workloadSelector exclude each other');
  checkPorts(spec, entry);
  checkExportTo(spec);
  checkEndpointPorts(spec, entry);
  const hasBlocks = spec.strings('addresses').some((address) => address.includes('/'));
  if (hasBlocks && resolution !== 'NONE' && resolution !== 'STATIC')
    spec.problem('addresses', `has a block, which goes with resolution NONE or STATIC only, not with ${resolution}`);
  switch (resolution) {
    case 'NONE':
      if (endpoints.length > 0)
        spec.problem(
          'endpoints',
          'go with another resolution than NONE, the default: it keeps the destination as it is',
        );
      break;
    case 'STATIC':
      endpoints.forEach(({ address }, i) => {
        if (address !== '' && !address.startsWith(UNIX) && canonicalIp(address) === undefined)
          spec.problem(
            `endpoints[${i}].address`,
            `is ${quote(address)}, which is no IP address: STATIC resolves no names`,
          );
      });
      break;
    case 'DNS':
    case 'DNS_ROUND_ROBIN':
      checkDns(spec, entry);
      break;
    case 'DYNAMIC_DNS':
      checkDynamicDns(spec, entry);
      break;
  }
  if (resolution !== 'NONE' && hosts.length > 1) {
    const i = entry.ports.findIndex(({ protocol }) => !TOLD_APART.has(protocol.toLowerCase()));
    if (i >= 0) {
      spec.problem(
        `ports[${i}].protocol`,
        `is ${quote(entry.ports[i]?.protocol ?? '')}, by which several hosts cannot be told apart: use one ServiceEntry for each host, or HTTP or TLS`,
      );
    }
  }
}

function checkPorts(spec: Fields, { ports }: Pick<ServiceEntry, 'ports'>): void {
  const names = new Set<string>();
  const numbers = new Set<number>();
  ports.forEach(({ name, port, protocol }, i) => {
    if (name === '') spec.problem(`ports[${i}].name`, 'is missing');
    else if (!isLabel(name))
      spec.problem(`ports[${i}].name`, `is ${quote(name)}, which is no port name: letters, digits, dashes`);
    if (protocol !== '' && !PROTOCOLS.has(protocol.toLowerCase()))
      spec.problem(`ports[${i}].protocol`, `is ${quote(protocol)}, none of ${[...PROTOCOLS].join(', ').toUpperCase()}`);
    if (name !== '' && names.has(name)) spec.problem(`ports[${i}].name`, `is ${quote(name)}, as of another port`);
    if (port !== 0 && numbers.has(port)) spec.problem(`ports[${i}].number`, `is ${port}, as of another port`);
    names.add(name);
    numbers.add(port);
  });
}

function checkExportTo(spec: Fields): void {
  const values = spec.strings('exportTo');
  const seen = new Set<string>();
  values.forEach((value, i) => {
    if (seen.has(value)) spec.problem(`exportTo[${i}]`, `is ${quote(value)} again`);
    if (value === '*' || value === '~') {
      if (values.length > 1) spec.problem(`exportTo[${i}]`, `is ${quote(value)}, which goes with nothing else`);
    } else if (value !== '.' && !isLabel(value)) {
      spec.problem(`exportTo[${i}]`, `is ${quote(value)}, neither "." nor "*" nor "~" nor the name of a namespace`);
    }
    seen.add(value);
  });
}

function checkEndpointPorts(
  spec: Fields,
  { endpoints, ports, resolution }: Pick<ServiceEntry, 'endpoints' | 'ports' | 'resolution'>,
): void {
  const names = new Set(ports.map(({ name }) => name));
  endpoints.forEach((endpoint, i) => {
    for (const name of endpoint.ports.keys())
      if (!names.has(name)) spec.problem(`endpoints[${i}].ports.${name}`, 'is no port of this ServiceEntry');
    if (resolution === 'STATIC' && endpoint.address.startsWith(UNIX) && names.size !== 1)
      spec.problem(`endpoints[${i}].address`, 'is a Unix socket, which goes with exactly one port');
  });
}

function checkDns(
  spec: Fields,
  { resolution, endpoints, hosts }: Pick<ServiceEntry, 'resolution' | 'endpoints' | 'hosts'>,
): void {
  if (resolution === 'DNS_ROUND_ROBIN' && endpoints.length > 1)
    spec.problem('endpoints', 'are several, of which DNS_ROUND_ROBIN takes one at most');
  // With a selector the endpoints are given, too.
  if (endpoints.length > 0 || spec.has('workloadSelector')) return;
  hosts.forEach((host, i) => {
    if (host.startsWith('*'))
      spec.problem(`hosts[${i}]`, `is ${quote(host)}, which cannot be resolved: name endpoints`);
  });
}

function checkDynamicDns(
  spec: Fields,
  { endpoints, hosts, ports }: Pick<ServiceEntry, 'endpoints' | 'hosts' | 'ports'>,
): void {
  hosts.forEach((host, i) => {
    if (!host.startsWith('*')) spec.problem(`hosts[${i}]`, `is ${quote(host)}: DYNAMIC_DNS is for wildcards, use DNS`);
  });
  if (spec.count('addresses') > 0)
    spec.problem('addresses', 'cannot be given with DYNAMIC_DNS, which makes them of the hosts');
  if (endpoints.length > 0)
    spec.problem('endpoints', 'cannot be given with DYNAMIC_DNS, which makes them of the hosts');
  ports.forEach(({ protocol }, i) => {
    if (!DYNAMIC.has(protocol.toLowerCase()))
      spec.problem(`ports[${i}].protocol`, `is ${quote(protocol)}: DYNAMIC_DNS needs HTTP, HTTP2, GRPC or TLS`);
  });
}

/** What holds for a WorkloadEntry and for an endpoint of a ServiceEntry alike. */
export function checkEndpoint(spec: Fields, { address, ports, labels }: WorkloadEntrySpec): void {
  if (address === '' && !spec.has('network')) spec.problem('address', 'is missing');
  if (address.startsWith(UNIX)) {
    const path = address.slice(UNIX.length);
    if (!path.startsWith('@') && (!path.startsWith('/') || path.endsWith('/')))
      spec.problem('address', `is ${quote(address)}, which is no absolute path of a socket`);
    if (ports.size > 0) spec.problem('ports', 'go with an IP address or a host name, not with a Unix socket');
  } else if (address !== '' && canonicalIp(address) === undefined && fqdnProblem(address) !== undefined) {
    spec.problem('address', `is ${quote(address)}, neither an IP address nor a host name`);
  }
  for (const name of ports.keys())
    if (!isLabel(name)) spec.problem(`ports.${name}`, 'is no port name: letters, digits, dashes');
  for (const label of impossibleLabels(labels)) spec.problem('labels', `has ${quote(label)}, which is no label`);
}

function quote(text: string): string {
  return JSON.stringify(text.slice(0, MAX_QUOTED));
}

export const UNIX = 'unix://';
const MAX_QUOTED = 100;
const PROTOCOLS: ReadonlySet<string> = new Set([
  'tcp',
  'tls',
  'http',
  'http2',
  'https',
  'grpc',
  'grpc-web',
  'http_proxy',
  'mongo',
  'mysql',
  'redis',
  'udp',
]);
const TOLD_APART: ReadonlySet<string> = new Set(['http', 'http2', 'http_proxy', 'grpc', 'grpc-web', 'https', 'tls']);
const DYNAMIC: ReadonlySet<string> = new Set(['http', 'http2', 'grpc', 'tls']);
