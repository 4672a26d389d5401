import { Command } from 'commander';
import { registerAgent } from './agent.js';
import { registerControlPlane } from './control-plane.js';
import { registerExplain } from './explain.js';
import { registerLab } from './lab.js';

const program = new Command('meltemi')
  .description('An ambient service mesh: encryption, identity and policy for every workload, without sidecars.')
  .showHelpAfterError();
for (const register of [registerLab, registerExplain, registerAgent, registerControlPlane]) register(program);

try {
  await program.parseAsync();
} catch (error) {
  console.error(`meltemi: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 1;
}
