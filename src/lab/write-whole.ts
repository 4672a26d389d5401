import { renameSync, writeFileSync } from 'node:fs';

/** A reader sees the old content or the new, never a part. */
export function writeWhole(path: string, content: string, mode = 0o644): void {
  const slash = path.lastIndexOf('/');
  const temporary = `${path.slice(0, slash)}/.${path.slice(slash + 1)}.new`;
  writeFileSync(temporary, content, { mode });
  renameSync(temporary, path);
}
