/**
 * Replaces this process by one of the same arguments with more flags of the JavaScript engine, which count only from the
 * start, and more environment. Returns where that has been done already, or cannot be. Source maps are not taken along:
 * reading them costs start-up time and memory.
 */
export function replaceProcess(flags: readonly string[], environment: Readonly<Record<string, string>>): void {
  if (process.execve === undefined || flags.every((flag) => process.execArgv.includes(flag))) return;
  const kept = process.execArgv.filter((flag) => flag !== '--enable-source-maps');
  // process.execve is new in Node, and says so on standard error.
  const all = [...kept, ...flags, '--disable-warning=ExperimentalWarning'];
  process.execve(process.execPath, [process.execPath, ...all, ...process.argv.slice(1)], {
    ...process.env,
    ...environment,
  });
}
