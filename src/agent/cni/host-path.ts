import { readlinkSync } from 'node:fs';
import { posix } from 'node:path';

/**
 * The path under which this process opens what is `path` for a process whose root is seen at `root`
 * (`/proc/1/root`): absolute symbolic links on the way, as `/var/run` is one on most nodes, start there again, where the
 * kernel would start at our own root. What does not exist is left as it is.
 */
export function hostPath(root: string, path: string, readlink: (path: string) => string = readlinkSync): string {
  const rest = path.split('/').reverse();
  let at = '/';
  let links = 0;
  while (rest.length > 0) {
    const next = posix.resolve(at, rest.pop() ?? '');
    const target = links < MAX_LINKS ? linkAt(root + next, readlink) : undefined;
    if (target === undefined) {
      at = next;
      continue;
    }
    links += 1;
    if (target.startsWith('/')) at = '/';
    rest.push(...target.split('/').reverse());
  }
  return root + at;
}

function linkAt(path: string, readlink: (path: string) => string): string | undefined {
  try {
    return readlink(path);
  } catch {
    return undefined;
  }
}

/** As Linux has it. */
const MAX_LINKS = 40;
