/** The end of a cluster, however far it came and whoever started it. */
import { existsSync, readdirSync, rmdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { claimedIndex, giveUpIndex } from './claim.js';
import { killMachine } from './machine.js';
import { CLUSTERS, clusterDirectory, planCluster } from './plan.js';
import { sh, until } from './shell.js';

/** Nothing of it is left: no process, namespace, link, mount, control group or file. Without a cluster, does nothing. */
export async function takeDown(name: string): Promise<void> {
  const directory = clusterDirectory(name);
  // With its first processes a machine loses all others, its mounts, its namespaces and so its links.
  await killMachine(directory);
  const index = claimedIndex(name);
  if (index !== undefined) {
    const { link } = planCluster(name, index);
    const gone = () => !existsSync(`/sys/class/net/${link}`);
    if (!gone()) await sh(['ip', 'link', 'delete', link]).catch(() => undefined);
    await until(`link ${link} is gone`, gone, { everyMs: 10 });
  }
  await removeCgroups(`meltemi.${name}`);
  rmSync(directory, { recursive: true, force: true });
  giveUpIndex(name);
}

/** Clusters of which something is left. */
export function clusterNames(): readonly string[] {
  return existsSync(CLUSTERS) ? readdirSync(CLUSTERS).filter((name) => !name.startsWith('.')) : [];
}

async function removeCgroups(name: string): Promise<void> {
  const roots = [CGROUPS, ...readdirSync(CGROUPS).map((each) => join(CGROUPS, each))];
  for (const root of roots) {
    const group = join(root, name);
    await until(`${group} is empty`, () => {
      if (existsSync(group)) removeGroup(group);
      return true;
    });
  }
}

function removeGroup(group: string): void {
  for (const entry of readdirSync(group, { withFileTypes: true })) {
    if (entry.isDirectory()) removeGroup(join(group, entry.name));
  }
  rmdirSync(group);
}

const CGROUPS = '/sys/fs/cgroup';
