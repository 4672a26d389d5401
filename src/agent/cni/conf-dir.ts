import { err, ok, type Result } from '../../lib/result.js';
import { conflistOf, hasPlugin, type PluginEntry, withoutPlugin, withPlugin } from './conflist.js';

/** A file of the runtime's configuration directory. */
export interface ConfFile {
  readonly name: string;
  readonly text: string;
}

export type Edit =
  | { readonly action: 'write'; readonly name: string; readonly text: string }
  | { readonly action: 'remove'; readonly name: string };

/**
 * What must change in a directory so that the runtime's chain ends with `entry`. The runtime takes the first file in the
 * order of names: a conflist gets the entry, a plain configuration is left alone and put into a conflist of our own that
 * comes before it. Entries in other files stay, and up to date: whichever of them becomes first, no pod gets by.
 * `files` are those that a runtime reads. Pure. Error: a sentence that names the file and the cause.
 */
export function planInstall(files: readonly ConfFile[], entry: PluginEntry): Result<readonly Edit[]> {
  const foreign = inOrder(files).filter(({ name }) => !isOwnFile(name));
  const own = files.filter(({ name }) => isOwnFile(name));
  const [first, ...others] = foreign;
  if (first === undefined) {
    return err('there is no network configuration yet: the CNI of this cluster has not been installed on the node');
  }
  const edits: Edit[] = [];
  if (isConflist(first.name)) {
    const text = withPlugin(first.text, entry);
    if (!text.ok) return err(`${first.name} ${text.error}`);
    edits.push(...changed(first, text.value));
    edits.push(...own.map(({ name }) => ({ action: 'remove' as const, name })));
  } else {
    const name = OWN_NAMES.find((each) => each < first.name);
    if (name === undefined) return err(`${first.name} comes before every name that a conflist of our own could have`);
    const text = conflistOf(first.text, entry);
    if (!text.ok) return err(`${first.name} ${text.error}`);
    edits.push(...changed(own.find((each) => each.name === name) ?? { name, text: '' }, text.value));
    edits.push(...own.flatMap((each) => (each.name === name ? [] : [{ action: 'remove' as const, name: each.name }])));
  }
  for (const file of others) {
    const text = hasPlugin(file.text) ? withPlugin(file.text, entry) : undefined;
    if (text?.ok === true) edits.push(...changed(file, text.value));
  }
  return ok(edits);
}

/** What must change so that nothing of ours is left, and what cannot be cleaned, a sentence each. */
export function planUninstall(files: readonly ConfFile[]): {
  readonly edits: readonly Edit[];
  readonly problems: readonly string[];
} {
  const edits: Edit[] = [];
  const problems: string[] = [];
  for (const file of inOrder(files)) {
    if (isOwnFile(file.name)) {
      edits.push({ action: 'remove', name: file.name });
      continue;
    }
    const text = withoutPlugin(file.text);
    if (text.ok) edits.push(...changed(file, text.value));
    else if (file.text.includes(`"${entryMark}"`)) problems.push(`${file.name} ${text.error}`);
  }
  return { edits, problems };
}

/** Whether a runtime reads files of this name. */
export function isConfName(name: string): boolean {
  return !name.startsWith('.') && /\.(conf|conflist|json)$/.test(name);
}

function changed(file: ConfFile, text: string): Edit[] {
  return text === file.text ? [] : [{ action: 'write', name: file.name, text }];
}

function inOrder(files: readonly ConfFile[]): ConfFile[] {
  return files.toSorted((a, b) => (a.name < b.name ? -1 : 1));
}

function isConflist(name: string): boolean {
  return name.endsWith('.conflist');
}

function isOwnFile(name: string): boolean {
  return OWN_NAMES.includes(name);
}

/** The first that comes before the file it stands for. */
const OWN_NAMES: readonly string[] = ['00-meltemi.conflist', '0-meltemi.conflist', '!-meltemi.conflist'];
const entryMark = 'meltemi-cni';
