/**
 * Every condition that is written to a status, and every reason: docs/validation.md lists them, and a test holds the
 * two to each other. Istio's names where Istio has one.
 */
export const CONDITION = {
  /** Of policies: node agents enforce it. */
  ztunnelAccepted: 'ZtunnelAccepted',
  /** Of policies with targetRefs. */
  waypointAccepted: 'WaypointAccepted',
  /** Of ServiceEntries whose hosts only a waypoint can resolve. */
  waypointMissing: 'istio.io/WaypointMissing',
  /** Of ServiceEntries and WorkloadEntries: they are part of the mesh. */
  accepted: 'meltemi.io/Accepted',
} as const;

export type ConditionType = (typeof CONDITION)[keyof typeof CONDITION];

export const REASON = {
  accepted: 'Accepted',
  /** It got in while nobody judged it, and is no good. */
  invalid: 'Invalid',
  /** Something in it cannot be done by a node agent; the message says what becomes of it. */
  unsupportedValue: 'UnsupportedValue',
  /** Another object comes first, or nobody is meant. */
  noEffect: 'NoEffect',
  /** Something in it has no effect. */
  partlyWithoutEffect: 'PartlyWithoutEffect',
  /** There are no waypoints that it could be attached to. */
  ancestorNotBound: 'AncestorNotBound',
  noWaypointForWildcardService: 'NoWaypointForWildcardService',
} as const;

export type Reason = (typeof REASON)[keyof typeof REASON];
