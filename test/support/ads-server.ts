import { createGrpcServer } from '../../src/grpc/server.js';
import type { ResourceInput, ResourceTable } from '../../src/xds/resource-table.js';
import { type AdsServer, type AdsServerOptions, createAdsServer } from '../../src/xds/server.js';

export interface RunningAdsServer {
  readonly port: number;
  readonly ads: AdsServer;
  close(): Promise<void>;
}

/** An ADS server on loopback; with `port` it comes back where it was. */
export async function startAdsServer(
  tables: readonly ResourceTable[],
  options: AdsServerOptions & { readonly port?: number } = {},
): Promise<RunningAdsServer> {
  const server = createGrpcServer();
  const ads = createAdsServer(tables, options);
  ads.addTo(server);
  const port = await server.listen({ ip: '127.0.0.1', port: options.port ?? 0 });
  return { port, ads, close: () => server.close(0) };
}

export function resource(name: string, content: string, aliases: readonly string[] = []): ResourceInput {
  return { name, aliases, bytes: Buffer.from(content) };
}
