import { type FSWatcher, readFileSync, watch } from 'node:fs';
import { join } from 'node:path';
import { writeFileAtomically } from '../../lib/atomic-file.js';
import type { Clock } from '../../lib/clock.js';
import type { Logger } from '../../telemetry/log.js';
import type { Counter, MetricsRegistry } from '../../telemetry/metrics.js';
import { isConfName, planInstall } from './conf-dir.js';
import { applyEdits, readConfFiles, removeLeftovers } from './conf-files.js';
import { PLUGIN, type PluginEntry } from './conflist.js';

export interface InstallerParts {
  /** Where the runtime looks for its network configuration, and for plugins. */
  readonly confDir: string;
  readonly binDir: string;
  /** The plugin's binary as it came with this agent. */
  readonly binary: string;
  readonly entry: PluginEntry;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: MetricsRegistry;
}

/**
 * Keeps the plugin in the node's CNI chain: puts it there, and again whenever somebody else rewrites the chain or puts
 * another one first. What it finds wrong is told once, shown by `problem`, and looked at again.
 */
export class Installer {
  readonly #repairs: Counter;
  #problem = 'the node has not been looked at yet';
  #wasInPlace = false;
  #watcher: FSWatcher | undefined;
  #cancel: () => void = () => undefined;
  #closed = false;

  constructor(readonly parts: InstallerParts) {
    const { metrics } = parts;
    this.#repairs = metrics.counter(
      'meltemi_cni_repairs_total',
      'Times the plugin was put back into a CNI configuration that somebody else had changed.',
    );
    metrics.gauge('meltemi_cni_installed', 'Whether the plugin is in the CNI chain of the node.', [], () =>
      this.#problem === '' ? 1 : 0,
    );
  }

  /** Puts the plugin in place, if that is possible now, and goes on by itself; also after `close`. */
  start(): void {
    this.#closed = false;
    this.#look();
    this.#lookLater();
  }

  /** Why pods that start now would not be waited for; empty when they are. */
  get problem(): string {
    return this.#problem;
  }

  /** The plugin stays where it is: pods wait for the next agent, and never start uncaptured. */
  close(): void {
    this.#closed = true;
    this.#unwatch();
    this.#cancel();
  }

  #look(): void {
    if (this.#closed) return;
    this.#watch();
    try {
      this.#put();
    } catch (error) {
      this.#failed(error instanceof Error ? error.message : String(error));
    }
  }

  /** The binary first: a chain that names what is not there starts no pod at all. */
  #put(): void {
    const { confDir, binDir, binary, entry, log } = this.parts;
    if (installBinary(binary, join(binDir, PLUGIN))) log.info({ binDir }, 'the CNI plugin has been installed');
    removeLeftovers(binDir, (name) => name === PLUGIN);
    removeLeftovers(confDir, isConfName);
    const plan = planInstall(readConfFiles(confDir), entry);
    if (!plan.ok) {
      this.#failed(`${confDir}: ${plan.error}`);
      return;
    }
    applyEdits(confDir, plan.value);
    if (plan.value.length > 0) {
      const files = plan.value.map(({ name }) => name);
      if (this.#wasInPlace) {
        this.#repairs.inc();
        log.warn({ confDir, files }, 'somebody has changed the CNI configuration; the plugin has been put back');
      } else log.info({ confDir, files }, 'the CNI plugin is in the chain of this node');
    }
    this.#wasInPlace = true;
    this.#problem = '';
  }

  #failed(problem: string): void {
    if (problem !== this.#problem) {
      this.parts.log.error({ problem }, 'pods that start now are not waited for: the CNI plugin is not in place');
    }
    this.#problem = problem;
  }

  #watch(): void {
    if (this.#watcher !== undefined) return;
    try {
      const watcher = watch(this.parts.confDir, { persistent: false }, () => this.#look());
      watcher.on('error', () => this.#unwatch());
      this.#watcher = watcher;
    } catch {
      // Not there yet, or too many watches: it is looked at now and then.
    }
  }

  #unwatch(): void {
    this.#watcher?.close();
    this.#watcher = undefined;
  }

  /** Notifications can be lost, and a directory that was replaced sends none. */
  #lookLater(): void {
    this.#cancel = this.parts.clock.schedule(LOOK_INTERVAL_MS, () => {
      this.#unwatch();
      this.#look();
      this.#lookLater();
    });
  }
}

/** Copies the plugin if what is there differs. A plugin that runs keeps its file. True when it was copied. */
function installBinary(from: string, to: string): boolean {
  const content = readFileSync(from);
  try {
    if (readFileSync(to).equals(content)) return false;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
  writeFileAtomically(to, content, 0o755);
  return true;
}

const LOOK_INTERVAL_MS = 5000;
