import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { writeFileAtomically } from '../../lib/atomic-file.js';
import type { Clock } from '../../lib/clock.js';
import type { Logger } from '../../telemetry/log.js';
import { Authority } from './authority.js';
import { filesOfDirectory } from './ca-files.js';
import { Holders } from './holders.js';
import { PluggedIn } from './plugged-in.js';
import { SelfSigned } from './self-signed.js';
import { FileDocument } from './shared-document.js';

export interface DirectoryCaOptions {
  /** Holds the state of a self-signed CA, and `root-cert.pem` (trust bundle) and `ca-crl.pem` (revoked) of either. */
  readonly directory: string;
  /** Directory of a plugged-in CA; self-signed when undefined. */
  readonly cacerts?: string | undefined;
  readonly trustDomain: string;
  /** Life of a certificate when the request names none. */
  readonly defaultTtlSeconds: number;
  readonly clock: Clock;
  readonly log: Logger;
}

/** The CA of a single control plane. Rejects when what is on disk cannot be used, and when nothing can be written. */
export async function openDirectoryCa(options: DirectoryCaOptions): Promise<Authority> {
  const { directory, cacerts, trustDomain, defaultTtlSeconds, clock, log } = options;
  const holders = new Holders({ clock, defaultTtlSeconds, isShared: false });
  const source =
    cacerts === undefined
      ? await SelfSigned.open({
          state: new FileDocument(join(directory, 'ca.json')),
          revocations: new FileDocument(join(directory, 'revocations.json')),
          trustDomain,
          holders,
          clock,
          log,
        })
      : new PluggedIn({ files: filesOfDirectory(cacerts, clock), clock, log });
  try {
    mkdirSync(directory, { recursive: true });
    return new Authority({
      source,
      holders,
      defaultTtlSeconds,
      publish(bundle, revocationLists) {
        writeFileAtomically(join(directory, 'ca-crl.pem'), revocationLists, 0o644);
        writeFileAtomically(join(directory, 'root-cert.pem'), bundle, 0o644);
      },
      clock,
      log,
    });
  } catch (error) {
    source.close();
    throw error;
  }
}
