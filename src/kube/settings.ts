import type { ConfigReader } from '../lib/config-reader.js';
import type { InClusterOptions } from './in-cluster.js';

/**
 * Reads the setting `kubernetes` of a configuration, the same for agent and control plane: `{server, token, ca}`, all of
 * them optional. A pod needs none: it is told where the API server is.
 */
export function readApiServer(root: ConfigReader): InClusterOptions {
  const reader = root.object('kubernetes');
  const [server, token, ca] = [reader.text('server', ''), reader.text('token', ''), reader.text('ca', '')];
  reader.end();
  if (server !== '' && !URL.canParse(server)) {
    root.problems.push(`kubernetes.server is ${JSON.stringify(server)}, no URL like https://10.96.0.1:443`);
  }
  return { ...(server && { server }), ...(token && { token }), ...(ca && { ca }) };
}
