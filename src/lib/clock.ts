/** Time as a parameter: production code takes a Clock, tests drive one by hand. */
export interface Clock {
  /** Milliseconds since the epoch. */
  now(): number;
  /** Calls back once after `delayMs`; the returned function cancels. Does not keep the process alive. */
  schedule(delayMs: number, callback: () => void): () => void;
}

export const systemClock: Clock = {
  now: () => Date.now(),
  schedule(delayMs, callback) {
    // setTimeout holds at most 2^31-1 ms; a longer wait is cut into pieces.
    let timer: NodeJS.Timeout;
    const arm = (left: number): void => {
      const step = Math.min(left, MAX_TIMER_MS);
      // It would leave a fraction out, and call too early.
      timer = setTimeout(() => (left > step ? arm(left - step) : callback()), Math.ceil(step));
      timer.unref();
    };
    arm(Math.max(0, delayMs));
    return () => clearTimeout(timer);
  },
};

/** Runs evenly whatever happens to the time of day; its zero is the start of the process. */
export const monotonicClock: Clock = {
  now: () => performance.now(),
  schedule: systemClock.schedule,
};

const MAX_TIMER_MS = 2 ** 31 - 1;
