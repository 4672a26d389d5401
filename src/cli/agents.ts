import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { LabLayout } from '../lab/layout.js';
import { getOverSocket } from '../lib/unix-http.js';

/** Asks the agents of a mesh until one has the answer. */
export interface AgentQuery {
  /** Undefined when every agent said that it does not know the pod. Rejects when none could be asked. */
  ask<T>(path: string, query: Readonly<Record<string, string>>): Promise<T | undefined>;
}

/** The agents of a lab, by their admin sockets. */
export function labAgents(name: string): AgentQuery {
  const nodes = join(new LabLayout(name).directory, 'nodes');
  const sockets = existsSync(nodes) ? readdirSync(nodes).map((node) => join(nodes, node, 'admin.sock')) : [];
  if (sockets.length === 0) throw new Error(`there is no lab ${name}, or it has no agents`);
  return {
    async ask<T>(path: string, query: Readonly<Record<string, string>>) {
      const target = `${path}?${new URLSearchParams(query)}`;
      const answers = await Promise.allSettled(sockets.map((socket) => getOverSocket(socket, target)));
      const failures: string[] = [];
      for (const [index, answer] of answers.entries()) {
        if (answer.status === 'rejected') failures.push(`${sockets[index]}: ${answer.reason}`);
        else if (answer.value.status === 200) return JSON.parse(answer.value.body) as T;
        else if (answer.value.status !== 404) failures.push(`${sockets[index]}: ${answer.value.body.trim()}`);
      }
      if (failures.length > 0) throw new Error(`the agents did not answer:\n  ${failures.join('\n  ')}`);
      return undefined;
    },
  };
}
