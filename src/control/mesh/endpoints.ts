import type { ContainerPort } from '../../model/kubernetes/core.js';
import type { EndpointPort } from '../../model/kubernetes/service.js';
import type { MeshPort, MeshService } from './services.js';

/** At which port of an endpoint each port of a service is found. A port the endpoint does not have is left out. */
export interface PortPair {
  readonly servicePort: number;
  readonly targetPort: number;
}

/** A pod knows its ports by the names of its containers' ports. */
export function podPorts(service: MeshService, containerPorts: readonly ContainerPort[]): readonly PortPair[] {
  const numberOf = (name: string) => containerPorts.find((p) => p.name === name && p.protocol === 'TCP')?.port;
  return pairs(service, (port) => {
    if (typeof port.targetPort === 'string') return numberOf(port.targetPort);
    // A ServiceEntry cannot name a target port; there, the names of the ports are compared.
    if (service.from === 'ServiceEntry' && port.name !== '') return numberOf(port.name) ?? port.targetPort;
    return port.targetPort;
  });
}

/** A WorkloadEntry says by name where it serves a port differently. */
export function entryPorts(service: MeshService, ports: ReadonlyMap<string, number>): readonly PortPair[] {
  return pairs(service, (port) => {
    if (typeof port.targetPort === 'string') return ports.get(port.targetPort);
    return ports.get(port.name) ?? port.targetPort;
  });
}

/** An EndpointSlice gives numbers for the names of the service's ports. */
export function slicePorts(service: MeshService, ports: readonly EndpointPort[]): readonly PortPair[] {
  return pairs(service, (port) => ports.find((p) => p.name === port.name && p.protocol === 'TCP')?.port);
}

function pairs(service: MeshService, targetOf: (port: MeshPort) => number | undefined): readonly PortPair[] {
  return service.ports.flatMap((port) => {
    const targetPort = targetOf(port);
    return targetPort === undefined ? [] : [{ servicePort: port.port, targetPort }];
  });
}
