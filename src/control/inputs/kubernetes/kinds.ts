import type { Resource, Selection } from '../../../kube/api.js';
import { RESOURCES } from '../../../kube/resources.js';
import type { Inputs } from '../inputs.js';
import { POD_SHAPE } from './pod-shape.js';

/** A kind that the mesh is derived from, and what of it is asked for. */
export interface WatchedKind {
  readonly resource: Resource;
  readonly selection: Selection;
}

const ALL: Selection = {};
/** Of these nothing but names and labels is read; a node's status is large and changes all the time. */
const METADATA: Selection = { metadataOnly: true };
/** A pod that has ended has no address any more. The server tells of its end as if it were deleted. */
const ALIVE: Selection = { fieldSelector: 'status.phase!=Succeeded,status.phase!=Failed', shape: POD_SHAPE };

/** By the name of the collection that they feed. */
export const WATCHED: Readonly<Record<keyof Inputs, WatchedKind>> = {
  Namespace: { resource: RESOURCES.Namespace, selection: METADATA },
  Node: { resource: RESOURCES.Node, selection: METADATA },
  Pod: { resource: RESOURCES.Pod, selection: ALIVE },
  Service: { resource: RESOURCES.Service, selection: ALL },
  EndpointSlice: { resource: RESOURCES.EndpointSlice, selection: ALL },
  ServiceEntry: { resource: RESOURCES.ServiceEntry, selection: ALL },
  WorkloadEntry: { resource: RESOURCES.WorkloadEntry, selection: ALL },
  AuthorizationPolicy: { resource: RESOURCES.AuthorizationPolicy, selection: ALL },
  PeerAuthentication: { resource: RESOURCES.PeerAuthentication, selection: ALL },
};
