import { openNetnsTools } from '../dataplane/native.js';
import { netnsSockets } from './netns-sockets.js';
import type { PodSockets } from './pod-sockets.js';

/** Loaded inside the worker: a `PodSocketsModule` that makes its sockets with the addon. */
export function openSockets(): PodSockets {
  return netnsSockets(openNetnsTools());
}
