/** Which endpoints a verdict chooses from. The same specification is the same group for every pod of the node. */
export type GroupSpec =
  | {
      /** The endpoints of a service that serve one of its ports. */
      readonly kind: 'service';
      /** `namespace/hostname`. */
      readonly service: string;
      readonly port: number;
      /** The family the client asked in; endpoints of both prefer it. */
      readonly family: 4 | 6;
      /** What the CONNECT names instead of the endpoint: for a waypoint, the client's destination. Else empty. */
      readonly authority: string;
    }
  | {
      /** One workload at one of its addresses. */
      readonly kind: 'workload';
      readonly uid: string;
      readonly ip: string;
      readonly port: number;
      readonly authority: string;
    };

/** Stable and readable: it appears in dumps and logs. */
export function groupId(spec: GroupSpec): string {
  const via = spec.authority === '' ? '' : ` for ${spec.authority}`;
  if (spec.kind === 'service') return `service ${spec.service}:${spec.port}/v${spec.family}${via}`;
  return `workload ${spec.uid} ${spec.ip}:${spec.port}${via}`;
}
