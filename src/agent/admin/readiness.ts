/**
 * What must have happened before this process is ready, by name. A task may also be judged live: then it can become
 * pending again.
 */
export class Readiness {
  readonly #done = new Map<string, () => boolean>();
  readonly #problems = new Map<string, () => string>();

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

  /** Declares a task that is done as long as nothing is wrong; `problem` says what is. */
  problem(name: string, problem: () => string): void {
    this.#problems.set(name, problem);
  }

  /** Names of what is missing, with what is wrong where that is known; empty when ready. */
  pending(): string[] {
    const missing = [...this.#done].filter(([, isDone]) => !isDone()).map(([name]) => name);
    const wrong = [...this.#problems].map(([name, problem]) => [name, problem()] as const);
    return [...missing, ...wrong.filter(([, problem]) => problem !== '').map(([name, why]) => `${name} (${why})`)];
  }
}
