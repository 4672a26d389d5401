import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { replaceProcess } from './replace-process.js';

/** `meltemi agent`: the agent of one node. */
export function registerAgent(program: Command): void {
  program
    .command('agent')
    .description('The agent of one node: enrols its pods, and carries and judges their connections.')
    .requiredOption('--config <file>', 'YAML; docs/reference/config.md lists the settings')
    .action(async ({ config: path }: { config: string }) => {
      const read = process.env[CONFIG_VARIABLE];
      if (read === undefined) becomeSmall(await configAsJson(path));
      const { runAgent } = await import('../agent/main.js');
      await runAgent(path, read ?? readFileSync(path, 'utf8'));
    });
}

/**
 * Replaces this process by one that keeps to little memory: the agent runs on every node, decides
 * seldom and moves no byte in JavaScript.
 */
function becomeSmall(config: string): void {
  replaceProcess(FLAGS, { ...ENVIRONMENT, [CONFIG_VARIABLE]: config });
}

/** Whoever reads YAML keeps its parser. What cannot be read is left for the agent itself to complain about. */
async function configAsJson(path: string): Promise<string> {
  const { parseYaml } = await import('../lib/yaml.js');
  const text = readFileSync(path, 'utf8');
  const parsed = parseYaml(text);
  return parsed.ok ? JSON.stringify(parsed.value ?? {}) : text;
}

const FLAGS: readonly string[] = [
  // A young generation of 1 MB instead of 16: short-lived garbage is collected sooner.
  '--max-semi-space-size=1',
  // No optimising compiler: its code and its output cost 20 MB, and a decision takes 60 instead of 20 µs.
  '--lite-mode',
  // For the compaction after the first answer of the control plane.
  '--expose-gc',
];

/** From the process that read the configuration to the one it becomes. */
const CONFIG_VARIABLE = 'MELTEMI_AGENT_CONFIG';

const ENVIRONMENT: Readonly<Record<string, string>> = {
  MALLOC_ARENA_MAX: '1',
  MALLOC_MMAP_THRESHOLD_: '32768',
  MALLOC_TRIM_THRESHOLD_: '32768',
};
