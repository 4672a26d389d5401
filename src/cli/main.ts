import { Command } from 'commander';

/** Loaded only when named (or for help): an agent's memory has no room for what it does not use. */
const commands: Record<string, () => Promise<(program: Command) => void>> = {
  lab: async () => (await import('./lab.js')).registerLab,
  install: async () => (await import('./install.js')).registerInstall,
  upgrade: async () => (await import('./install.js')).registerUpgrade,
  uninstall: async () => (await import('./uninstall.js')).registerUninstall,
  check: async () => (await import('./check.js')).registerCheck,
  status: async () => (await import('./status.js')).registerStatus,
  explain: async () => (await import('./explain.js')).registerExplain,
  agent: async () => (await import('./agent.js')).registerAgent,
  'node-cleanup': async () => (await import('./node-cleanup.js')).registerNodeCleanup,
  'control-plane': async () => (await import('./control-plane.js')).registerControlPlane,
};

const program = new Command('meltemi')
  .description('An ambient service mesh: encryption, identity and policy for every workload, without sidecars.')
  .showHelpAfterError();

try {
  const named = commands[process.argv[2] ?? ''];
  for (const load of named === undefined ? Object.values(commands) : [named]) (await load())(program);
  await program.parseAsync();
} catch (error) {
  console.error(`meltemi: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 1;
}
