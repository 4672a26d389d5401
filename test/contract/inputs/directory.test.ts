import { mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DirectorySource } from '../../../src/control/inputs/directory/directory-source.js';
import { systemClock } from '../../../src/lib/clock.js';
import { inputsSuite, type Manifest } from './suite.js';

inputsSuite('directory', async (t, events) => {
  const root = t.testdir({ truth: {} });
  const [directory, hidden] = [join(root, 'truth'), join(root, 'hidden')];
  const fileOf = ({ kind, metadata }: Manifest) =>
    join(directory, `${kind}-${metadata.namespace}-${metadata.name}.json`);
  const source = new DirectorySource(directory, { ...events, trouble() {} }, systemClock, { rescanMs: 100 });
  return {
    source,
    async put(object) {
      const file = fileOf(object);
      mkdirSync(directory, { recursive: true });
      writeFileSync(`${file}.part`, JSON.stringify(object));
      renameSync(`${file}.part`, file);
    },
    async remove(object) {
      rmSync(fileOf(object));
    },
    async hide() {
      renameSync(directory, hidden);
    },
    async show() {
      renameSync(hidden, directory);
    },
  };
});
