/** The lab's own certificate authority in the hands of a test: how a foreign peer gets a certificate that counts. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { TestCa } from './certificates.js';
import type { Mesh } from './mesh.js';

export function labCa(mesh: Mesh): TestCa {
  const directory = join(mesh.directory, 'ca');
  const files = readdirSync(directory).filter((name) => name.endsWith('.pem'));
  const key = files.find((name) => readFileSync(join(directory, name), 'utf8').includes('PRIVATE KEY'));
  if (key === undefined) throw new Error(`no private key among ${files.join(' ')}`);
  return new TestCa({ cert: join(directory, 'root-cert.pem'), key: join(directory, key) });
}
