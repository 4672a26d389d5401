import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Clock } from '../../lib/clock.js';

/** The files of a CA that an operator plugs in, by the names that Istio gave them. */
export const CA_FILES = ['ca-cert.pem', 'ca-key.pem', 'cert-chain.pem', 'root-cert.pem', 'ca-crl.pem'] as const;

export type CaFile = (typeof CA_FILES)[number];

/** Where those are: what is missing is left out. */
export interface CaFiles {
  /** For messages. */
  readonly where: string;
  read(): Readonly<Partial<Record<CaFile, string>>>;
  /** Called when they may have changed. Returns how to stop. */
  subscribe(listener: () => void): () => void;
}

/** A folder that is looked at now and then: notifications miss what Kubernetes does with volumes. */
export function filesOfDirectory(directory: string, clock: Clock, intervalMs = DEFAULT_INTERVAL_MS): CaFiles {
  return {
    where: directory,
    read() {
      return Object.fromEntries(CA_FILES.flatMap((name) => textOf(join(directory, name)).map((text) => [name, text])));
    },
    subscribe(listener) {
      let cancel = () => {};
      const next = (): void => {
        cancel = clock.schedule(intervalMs, () => {
          listener();
          next();
        });
      };
      next();
      return () => cancel();
    },
  };
}

function textOf(path: string): string[] {
  try {
    return [readFileSync(path, 'utf8')];
  } catch {
    return [];
  }
}

const DEFAULT_INTERVAL_MS = 5_000;
