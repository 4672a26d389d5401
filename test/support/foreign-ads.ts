/**
 * A control plane of the tests that says whatever it is told to, in a process of its own. Reads JSON commands from
 * stdin (see ForeignAds in foreign-control-plane.ts) and knows nothing of meshes.
 */
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { create } from '@bufbuild/protobuf';
import { AggregatedDiscoveryService } from '../../src/gen/envoy/service/discovery/v3/ads_pb.js';
import {
  type DeltaDiscoveryRequest,
  type DeltaDiscoveryResponseSchema,
  DeltaDiscoveryResponseSchema as Response,
} from '../../src/gen/envoy/service/discovery/v3/discovery_pb.js';
import { LiveServerCredentials } from '../../src/grpc/credentials.js';
import { createGrpcServer, type ServerStream } from '../../src/grpc/server.js';
import type { ForeignCommand, Heard } from './foreign-control-plane.js';

type Stream = ServerStream<never, typeof DeltaDiscoveryResponseSchema>;

const streams = new Set<Stream>();
const heard: Heard[] = [];
const server = createGrpcServer();
server.bidi(AggregatedDiscoveryService.method.deltaAggregatedResources, (stream) => {
  streams.add(stream as never);
  stream.onClose(() => streams.delete(stream as never));
  stream.onMessage((request: DeltaDiscoveryRequest) => {
    heard.push({
      peer: stream.caller.peer,
      typeUrl: request.typeUrl,
      nonce: request.responseNonce,
      error: request.errorDetail?.message ?? '',
      known: Object.keys(request.initialResourceVersions).length,
    });
  });
});

createInterface({ input: process.stdin }).on('line', (line) => {
  const command = JSON.parse(line) as ForeignCommand & { id: number };
  obey(command).then(
    (facts) => console.log(JSON.stringify({ id: command.id, outcome: 'connected', ...facts })),
    (error: unknown) => console.log(JSON.stringify({ id: command.id, outcome: 'refused', error: String(error) })),
  );
});

async function obey(command: ForeignCommand): Promise<object> {
  if (command.op === 'listen') {
    const [certificateChain, privateKey] = [readFileSync(command.cert, 'utf8'), readFileSync(command.key, 'utf8')];
    return { port: await server.listen(command, new LiveServerCredentials({ certificateChain, privateKey })) };
  }
  if (command.op === 'heard') return { heard, streams: streams.size };
  const message = create(Response, {
    typeUrl: command.typeUrl,
    nonce: command.nonce,
    removedResources: [...(command.removed ?? [])],
    resources: command.resources.map(({ name, typeUrl, hex }) => ({
      name,
      version: '1',
      resource: { typeUrl, value: Buffer.from(hex, 'hex') },
    })),
  });
  await Promise.all([...streams].map((stream) => new Promise<void>((sent) => stream.send(message as never, sent))));
  return { streams: streams.size };
}
