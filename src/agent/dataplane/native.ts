import { createRequire } from 'node:module';
import type * as Addon from '#engine';
import type { Dataplane, EngineOptions } from './dataplane.js';
import type { NetnsTools } from './netns.js';
import { completeEngineOptions } from './options.js';

/** The engine of this process and the tools that need namespaces, both from the addon. */
export interface Native {
  readonly dataplane: Dataplane;
  readonly netns: NetnsTools;
  /** Gives back code pages and heap that only a start needs; they come back as they are used. Takes milliseconds. */
  readonly releaseMemory: () => void;
}

/**
 * Loads the addon and starts the engine's loops. Throws an Error that names the cause when an option is out of bounds,
 * when the addon is not built for this machine, or when the kernel refuses what the loops need.
 */
export function openNative(chosen: Partial<EngineOptions>): Native {
  const options = completeEngineOptions(chosen);
  if (!options.ok) throw new Error(`the engine cannot start: ${options.error.join('; ')}`);
  const addon = loadAddon();
  return { dataplane: new addon.Engine(options.value), netns: addon, releaseMemory: () => addon.releaseMemory() };
}

/** The namespace tools alone, without an engine. Throws like `openNative`. */
export function openNetnsTools(): NetnsTools {
  return loadAddon();
}

function loadAddon(): typeof Addon {
  try {
    return createRequire(import.meta.url)('#engine');
  } catch (cause) {
    throw new Error('the addon cannot be loaded; is it built for this machine (npm run build:native)?', { cause });
  }
}
