/**
 * Collects what was made a moment ago, in about a millisecond; large buffers among it do not count as memory for the
 * engine's own schedule. Does nothing without `--expose-gc`.
 */
export function collectYoung(): void {
  void globalThis.gc?.({ type: 'minor', execution: 'sync' });
}
