/** The lab's own certificate authority in the hands of a test: how a foreign peer gets a certificate that counts. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { TestCa } from './certificates.js';
import type { Mesh } from './mesh.js';

/** Signs with the present root of the lab. */
export function labCa(mesh: Mesh): TestCa {
  const state = JSON.parse(readFileSync(join(mesh.directory, 'ca/ca.json'), 'utf8')) as {
    root: { certificate: string; privateKey: string };
  };
  return new TestCa(state.root);
}
