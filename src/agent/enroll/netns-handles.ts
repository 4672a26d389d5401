import { closeSync, openSync } from 'node:fs';
import { netnsIdOf } from './netns-search.js';

/** An open network namespace: it stays what it is whoever made the path goes away. */
export interface NetnsHandle {
  /** A path to it that is good in this process and in its children. */
  readonly path: string;
  /** `DEVICE:INODE`. */
  readonly id: string;
}

/** Keeps the network namespaces of captured pods open, by the uid of the pod object. */
export class NetnsHandles {
  readonly #open = new Map<string, NetnsHandle & { readonly fd: number }>();
  /** Of pods whose namespace was replaced, until the former one is let go. */
  readonly #former = new Map<string, NetnsHandle & { readonly fd: number }>();

  of(uid: string): NetnsHandle | undefined {
    return this.#open.get(uid);
  }

  /** Opens `netns` for the pod; the same namespace again keeps its path. Throws an Error when it is none. */
  hold(uid: string, netns: string): NetnsHandle {
    const known = this.#open.get(uid);
    if (known !== undefined && netnsIdOf(netns) === known.id) return known;
    const fd = openSync(netns, 'r');
    const path = `/proc/${process.pid}/fd/${fd}`;
    const handle = { fd, path, id: netnsIdOf(path) };
    if (deviceOf(handle.id) !== deviceOf(netnsIdOf('/proc/self/ns/net'))) {
      closeSync(fd);
      throw new Error(`${netns} is no network namespace`);
    }
    if (known !== undefined) this.#former.set(known.path, known);
    this.#open.set(uid, handle);
    return handle;
  }

  /** Nothing uses `path` any more; without a path, nothing of the pod is used any more. */
  release(uid: string, path?: string): void {
    const former = path === undefined ? undefined : this.#former.get(path);
    if (former !== undefined) {
      this.#former.delete(former.path);
      closeSync(former.fd);
      return;
    }
    const handle = this.#open.get(uid);
    if (handle === undefined || (path !== undefined && path !== '' && path !== handle.path)) return;
    this.#open.delete(uid);
    closeSync(handle.fd);
  }

  close(): void {
    for (const { fd } of [...this.#open.values(), ...this.#former.values()]) closeSync(fd);
    this.#open.clear();
    this.#former.clear();
  }

  get size(): number {
    return this.#open.size + this.#former.size;
  }
}

/** All namespaces are on one device. */
function deviceOf(id: string): string | undefined {
  return id.split(':', 1)[0];
}
