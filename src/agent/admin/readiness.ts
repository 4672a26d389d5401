/**
 * What must have happened before this process is ready, by name. A task may also be judged live: then it can become
 * pending again.
 */
export class Readiness {
  readonly #done = new Map<string, () => boolean>();

  /** Declares a task; call the returned function when it is done. */
  task(name: string): () => void {
    let done = false;
    this.#done.set(name, () => done);
    return () => {
      done = true;
    };
  }

  /** Declares a task that is done as long as `isDone` says so. */
  condition(name: string, isDone: () => boolean): void {
    this.#done.set(name, isDone);
  }

  /** Names of what is missing; empty when ready. */
  pending(): string[] {
    return [...this.#done].filter(([, isDone]) => !isDone()).map(([name]) => name);
  }
}
