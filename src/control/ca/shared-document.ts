import { mkdirSync, readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { writeFileAtomically } from '../../lib/atomic-file.js';

/** A text that is replaced as a whole, and only by who has seen the last one. */
export interface SharedDocument {
  /** Where it is kept, for messages. */
  readonly where: string;
  /** The newest; undefined when there is none. Rejects when that cannot be known. */
  read(): Promise<Version | undefined>;
  /**
   * Puts `text` in the place of `former`, `undefined` for none. Undefined when somebody else was there first. Rejects
   * when it cannot be kept, or when nobody knows whether it was.
   */
  replace(text: string, former: Version | undefined): Promise<Version | undefined>;
  /** Called when somebody may have replaced it. Returns how to stop. */
  subscribe(listener: () => void): () => void;
}

export interface Version {
  /** Undefined where there is something, and no such text in it. */
  readonly text: string | undefined;
  /** What else is known there, by name: for whoever takes over from another. */
  readonly others: Readonly<Record<string, string>>;
  /** For `replace`. */
  readonly token: unknown;
}

/** A document in a file that nobody but its owner may read. Nobody else is expected to write it while it is in use. */
export class FileDocument implements SharedDocument {
  constructor(readonly where: string) {}

  async read(): Promise<Version | undefined> {
    try {
      return version(readFileSync(this.where, 'utf8'));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      throw error;
    }
  }

  async replace(text: string, former: Version | undefined): Promise<Version | undefined> {
    const present = await this.read();
    if (present !== undefined && present.text !== former?.text) return undefined;
    if (former === undefined) mkdirSync(dirname(this.where), { recursive: true });
    writeFileAtomically(this.where, text, 0o600);
    return version(text);
  }

  subscribe(): () => void {
    return () => {};
  }
}

function version(text: string): Version {
  return { text, others: {}, token: undefined };
}
