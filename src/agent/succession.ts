import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { Clock } from '../lib/clock.js';
import type { Logger } from '../telemetry/log.js';
import type { Dataplane } from './dataplane/dataplane.js';

export interface SuccessionParts {
  readonly dataplane: Dataplane;
  /** Shared by all agents of the node. */
  readonly stateDir: string;
  /** Agents of different revisions serve different pods: none follows the other. */
  readonly revision: string;
  readonly clock: Clock;
  readonly log: Logger;
  /** A successor serves. `sharesNetwork`: its own pages have the same ports as ours. */
  readonly relieved: (sharesNetwork: boolean) => void;
  /** The successor is gone and nobody else serves: this agent does again. */
  readonly resumed: () => Promise<void>;
}

/**
 * Who serves the pods of the node, when agents follow each other. A successor takes the listeners while its predecessor
 * goes on accepting, and relieves it only when it serves; the predecessor keeps them even then, and goes back to work
 * when the successor dies. An agent takes over once, when it starts, and only from one of a lower generation: two
 * agents on a node do not fight.
 */
export class Succession {
  readonly generation: number;
  readonly #socket: string;
  #relieved = Promise.withResolvers<void>();
  #isRelieved = false;
  #offered = false;
  #closed = false;

  constructor(readonly parts: SuccessionParts) {
    this.#socket = join(parts.stateDir, nameOf('handover', parts.revision, '.sock'));
    this.generation = nextGeneration(parts);
  }

  /** Whether another agent serves and would hand over, or serves instead of us. */
  get hasPredecessor(): boolean {
    return this.parts.dataplane.isOffered(this.#socket);
  }

  /** A successor serves. */
  get isRelieved(): boolean {
    return this.#isRelieved;
  }

  /** Resolves when a successor serves. */
  get relieved(): Promise<void> {
    return this.#relieved.promise;
  }

  /** Takes the listeners of a predecessor, which goes on accepting. Tries until it has them, or until nobody is there. */
  async take(): Promise<void> {
    const { dataplane, log } = this.parts;
    let said = '';
    while (!this.#closed && this.hasPredecessor) {
      const taken = await dataplane.takeHandover(this.#socket, this.generation);
      if (taken.ok) {
        if (taken.pods.length > 0) log.info({ pods: taken.pods.length }, 'listeners taken from a former agent');
        return;
      }
      if (taken.error !== said) log.warn({ error: taken.error }, 'another agent of this node serves on; trying again');
      said = taken.error;
      await delay(RETRY_MS);
    }
  }

  /** This agent serves: the predecessor accepts nothing more, and the next successor may come. */
  async complete(): Promise<void> {
    const { dataplane, log, clock } = this.parts;
    this.#offer();
    for (;;) {
      const completed = await dataplane.completeHandover();
      if (completed.ok) break;
      log.warn({ error: completed.error }, 'a hand-over is repeated unless the former agent is gone');
      const still = await dataplane.takeHandover(this.#socket, this.generation);
      // Refused by ourselves: nobody else is there.
      if (!still.ok || still.pods.length === 0) break;
    }
    clock.schedule(FORGET_AFTER_MS, () => dataplane.forgetInherited());
  }

  /** Offers nothing more, and does not go back to work. */
  close(): void {
    this.#closed = true;
  }

  #offer(): void {
    if (this.#offered) return;
    this.#offered = true;
    void this.#offerAgain();
  }

  async #offerAgain(): Promise<void> {
    const { dataplane, log } = this.parts;
    while (!this.#closed) {
      const offered = await dataplane.offerHandover(this.#socket, this.generation);
      if (this.#closed && !offered.ok) return;
      if (!offered.ok) {
        log.warn({ error: offered.error }, 'no successor can take over; trying again');
        await delay(OFFER_RETRY_MS);
        continue;
      }
      log.info('a successor has taken over; connections under way go on here');
      this.#isRelieved = true;
      this.parts.relieved(offered.sharesNetwork);
      this.#relieved.resolve();
      if (!(await this.#isNeededAgain())) return;
      log.warn('the successor is gone and nobody else serves: this agent accepts connections again');
      dataplane.resumeAccepting();
      this.#isRelieved = false;
      this.#relieved = Promise.withResolvers<void>();
      await this.parts.resumed();
    }
  }

  /** Waits until the successor is gone, and whoever came after it. False when this agent ends before. */
  async #isNeededAgain(): Promise<boolean> {
    if (!(await this.parts.dataplane.successorGone())) return false;
    while (!this.#closed && this.hasPredecessor) await delay(WATCH_MS);
    return !this.#closed;
  }
}

/** Above those of all agents that ever ran with this state, and of those that started before by the clock. */
function nextGeneration({ stateDir, revision, clock, log }: SuccessionParts): number {
  const path = join(stateDir, nameOf('generation', revision, ''));
  const generation = Math.max(clock.now(), lastGeneration(path) + 1);
  try {
    mkdirSync(stateDir, { recursive: true });
    writeFileSync(`${path}.${process.pid}`, `${generation}\n`);
    renameSync(`${path}.${process.pid}`, path);
  } catch (error) {
    log.warn({ path, error }, 'the generation of this agent cannot be kept; the clock must do');
  }
  return generation;
}

function nameOf(file: string, revision: string, ending: string): string {
  return revision === '' ? `${file}${ending}` : `${file}-${revision}${ending}`;
}

function lastGeneration(path: string): number {
  try {
    const last = Number(readFileSync(path, 'utf8'));
    return Number.isSafeInteger(last) ? last : 0;
  } catch {
    return 0;
  }
}

const RETRY_MS = 500;
const OFFER_RETRY_MS = 1000;
const WATCH_MS = 200;
/** A pod that has not been enrolled by then is gone. */
const FORGET_AFTER_MS = 60_000;
