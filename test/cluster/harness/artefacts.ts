/** What a cluster is made of, built on first use by test/cluster/build and kept outside the tree. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';

export interface Artefacts {
  /** Every part of Kubernetes in one program, kubectl too. */
  readonly kubernetes: string;
  readonly node: string;
  readonly pki: string;
  readonly app: string;
  /** Images as docker-archives. */
  readonly pause: string;
  readonly coredns: string;
  readonly appImage: string;
}

/** Builds what is missing. Takes minutes the first time, and says so on standard error. */
export async function artefacts(): Promise<Artefacts> {
  const child = promisify(execFile)(join(root, 'test/cluster/build'), { maxBuffer: 16 * 1024 * 1024 });
  child.child.stderr?.pipe(process.stderr);
  const { stdout } = await child;
  const lines = stdout.trim().split('\n');
  const found = new Map(lines.map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]));
  const path = (key: keyof Artefacts): string => {
    const value = found.get(key);
    if (value === undefined) throw new Error(`test/cluster/build printed no ${key}:\n${stdout}`);
    return value;
  };
  return {
    kubernetes: path('kubernetes'),
    node: path('node'),
    pki: path('pki'),
    app: path('app'),
    pause: path('pause'),
    coredns: path('coredns'),
    appImage: path('appImage'),
  };
}

const root = join(import.meta.dirname, '../../../..');
