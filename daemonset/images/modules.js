// Prints the paths (below the checkout) of the packages that run in a pod, one a line: the closure of our dependencies
// in the lock file, without what only a person's terminal needs. Usage: modules.js CHECKOUT
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** Too large for every node, and only the commands that a person runs import them. */
const TERMINAL_ONLY = ['@kubernetes/client-node', 'ajv'];
/** Its binary is laid apart, without debug information. */
const APART = 'node_modules/node';

const checkout = process.argv[2] ?? '.';
const { packages } = JSON.parse(readFileSync(join(checkout, 'package-lock.json'), 'utf8'));
const found = new Set();

function visit(from) {
  const { dependencies = {}, optionalDependencies = {}, peerDependencies = {}, peerDependenciesMeta = {} } = packages[from];
  for (const name of Object.keys({ ...dependencies, ...optionalDependencies, ...peerDependencies })) {
    if (TERMINAL_ONLY.includes(name) || name.startsWith('@types/')) continue;
    const at = resolve(from, name);
    if (at === undefined) {
      if (name in optionalDependencies || peerDependenciesMeta[name]?.optional) continue;
      throw new Error(`${name}, which ${from || 'the project'} needs, is not in package-lock.json`);
    }
    if (found.has(at)) continue;
    found.add(at);
    if (at !== APART) visit(at);
  }
}

/** As Node looks: in the package's own node_modules, then in those above it. */
function resolve(from, name) {
  for (let at = from; ; at = at.slice(0, Math.max(0, at.lastIndexOf('/node_modules/')))) {
    const path = `${at === '' ? '' : `${at}/`}node_modules/${name}`;
    if (packages[path] !== undefined) return path;
    if (at === '') return undefined;
  }
}

visit('');
found.delete(APART);
const missing = [...found].filter((path) => !existsSync(join(checkout, path)) && !packages[path].optional);
if (missing.length > 0) throw new Error(`not installed: ${missing.join(', ')}; run npm install`);
for (const path of [...found].filter((each) => existsSync(join(checkout, each))).sort()) console.log(path);
