/** Which cluster has which index: claimed by a symbolic link, which either comes into being or does not. */
import { existsSync, mkdirSync, readdirSync, readlinkSync, rmSync, symlinkSync } from 'node:fs';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { CLUSTERS, clusterDirectory, MAX_CLUSTERS } from './plan.js';

/** Claims a free index for a cluster whose directory exists. */
export function claimIndex(name: string): number {
  mkdirSync(CLAIMS, { recursive: true });
  const taken = new Set(
    Object.values(networkInterfaces()).flatMap(
      (all) => all?.map(({ address }) => address.split('.', 3).join('.')) ?? [],
    ),
  );
  for (let index = 0; index < MAX_CLUSTERS; index += 1) {
    if (taken.has(`10.77.${index}`)) continue;
    const claim = join(CLAIMS, String(index));
    const owner = ownerOf(claim);
    if (owner !== undefined && !existsSync(clusterDirectory(owner))) rmSync(claim, { force: true });
    try {
      symlinkSync(name, claim);
      return index;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
  }
  throw new Error(`${MAX_CLUSTERS} clusters are up already, see ${CLUSTERS}`);
}

/** Undefined when there is no such cluster, or it never came so far. */
export function claimedIndex(name: string): number | undefined {
  if (!existsSync(CLAIMS)) return undefined;
  const claim = readdirSync(CLAIMS).find((each) => ownerOf(join(CLAIMS, each)) === name);
  return claim === undefined ? undefined : Number(claim);
}

export function giveUpIndex(name: string): void {
  const index = claimedIndex(name);
  if (index !== undefined) rmSync(join(CLAIMS, String(index)), { force: true });
}

function ownerOf(claim: string): string | undefined {
  try {
    return readlinkSync(claim);
  } catch {
    return undefined;
  }
}

const CLAIMS = join(CLUSTERS, '.index');
