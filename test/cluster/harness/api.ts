/** Requests to an API server as its administrator, with the client certificate of a kubeconfig. */
import { readFileSync } from 'node:fs';
import { Agent, request } from 'node:https';

export interface Api {
  /** Gives the parsed body; rejects on every status but 2xx, with the reason that the server gave. */
  call(method: string, path: string, body?: object, contentType?: string): Promise<unknown>;
  close(): void;
}

/** `kubeconfig` is one of the harness's own: JSON with the credentials in it. */
export function api(kubeconfig: string): Api {
  const config = JSON.parse(readFileSync(kubeconfig, 'utf8')) as Kubeconfig;
  const { cluster } = config.clusters[0];
  const { user } = config.users[0];
  const decode = (text: string) => Buffer.from(text, 'base64');
  const agent = new Agent({
    ca: decode(cluster['certificate-authority-data']),
    cert: decode(user['client-certificate-data']),
    key: decode(user['client-key-data']),
    keepAlive: true,
  });
  return {
    call: (method, path, body, contentType = 'application/json') =>
      new Promise((resolve, reject) => {
        const failed = (why: string) => reject(new Error(`${method} ${path}: ${why}`));
        const headers = body === undefined ? {} : { 'content-type': contentType };
        const asking = request(new URL(path, cluster.server), { method, agent, headers, timeout: 10_000 }, (answer) => {
          let text = '';
          answer.setEncoding('utf8').on('data', (chunk: string) => {
            text += chunk;
          });
          answer.on('error', (error) => failed(error.message));
          answer.on('end', () => {
            const status = answer.statusCode ?? 0;
            if (status < 200 || status > 299) failed(`${status} ${text.slice(0, 500)}`);
            else resolve(answer.headers['content-type']?.includes('json') ? JSON.parse(text) : text);
          });
        });
        asking.on('timeout', () => asking.destroy(new Error('no answer within 10 s')));
        asking.on('error', (error) => failed(error.message));
        asking.end(body === undefined ? undefined : JSON.stringify(body));
      }),
    close: () => agent.destroy(),
  };
}

interface Kubeconfig {
  readonly clusters: readonly [
    { readonly cluster: { readonly server: string; readonly 'certificate-authority-data': string } },
  ];
  readonly users: readonly [
    { readonly user: { readonly 'client-certificate-data': string; readonly 'client-key-data': string } },
  ];
}
