import { setImmediate as turn } from 'node:timers/promises';
import type { ManualClock } from '../../src/lib/manual-clock.js';

/** Lets time go by, and what begins then come to its end. */
export async function pass(clock: ManualClock, ms: number): Promise<void> {
  clock.advance(ms);
  for (let count = 0; count < 20; count++) await turn();
}
