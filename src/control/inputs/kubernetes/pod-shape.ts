import type { Shape } from '../../../kube/protobuf-shape.js';

/** What `readPod` reads of a pod. The numbers are those of k8s.io/api/core/v1/generated.proto and of meta/v1. */
const OWNER: Shape = { 1: ['kind', 'string'], 3: ['name', 'string'], 6: ['controller', 'bool'] };

const METADATA: Shape = {
  1: ['name', 'string'],
  2: ['generateName', 'string'],
  3: ['namespace', 'string'],
  5: ['uid', 'string'],
  6: ['resourceVersion', 'string'],
  8: ['creationTimestamp', 'time'],
  9: ['deletionTimestamp', 'time'],
  11: ['labels', 'map'],
  12: ['annotations', 'map'],
  13: ['ownerReferences', [OWNER]],
};

const PORT: Shape = { 1: ['name', 'string'], 3: ['containerPort', 'int32'], 4: ['protocol', 'string'] };

const CONTAINER: Shape = { 6: ['ports', [PORT]], 24: ['restartPolicy', 'string'] };

const SPEC: Shape = {
  2: ['containers', [CONTAINER]],
  8: ['serviceAccountName', 'string'],
  9: ['serviceAccount', 'string'],
  10: ['nodeName', 'string'],
  11: ['hostNetwork', 'bool'],
  20: ['initContainers', [CONTAINER]],
};

const STATUS: Shape = {
  1: ['phase', 'string'],
  2: ['conditions', [{ 1: ['type', 'string'], 2: ['status', 'string'] }]],
  6: ['podIP', 'string'],
  12: ['podIPs', [{ 1: ['ip', 'string'] }]],
};

export const POD_SHAPE: Shape = { 1: ['metadata', METADATA], 2: ['spec', SPEC], 3: ['status', STATUS] };
