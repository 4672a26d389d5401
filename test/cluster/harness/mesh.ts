import { join } from 'node:path';
import { sh } from './shell.js';
import { suiteCluster, type TestCluster } from './suite.js';

/**
 * The cluster of this suite with the mesh in it: installed as a user does, from an image of this checkout, by the first
 * file that asks. On a cluster of somebody else a mesh that is there already is left as it is.
 */
export async function meshCluster(): Promise<TestCluster> {
  const cluster = await suiteCluster();
  if (await isInstalled(cluster)) return cluster;
  const image = join(root, 'build/image', `test-${process.pid}.tar`);
  try {
    await sh(['make', '-s', '-C', root, 'crds'], { timeoutMs: 300_000 });
    await sh([join(root, 'daemonset/images/build'), image], { timeoutMs: 300_000 });
    await cluster.load(image);
  } finally {
    await sh(['rm', '-f', image]);
  }
  const install = [join(root, 'bin/meltemi'), 'install', '--kubeconfig', cluster.kubeconfig, '--timeout', '180'];
  await sh(install, { timeoutMs: 300_000 });
  return cluster;
}

async function isInstalled(cluster: TestCluster): Promise<boolean> {
  const sets = await cluster.kubectl(['get', 'daemonset', '-A', '-o', 'name']);
  return sets.split('\n').includes('daemonset.apps/meltemi-agent');
}

const root = join(import.meta.dirname, '../../../..');
