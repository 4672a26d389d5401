import { createRequire } from 'node:module';
import { type Client, type ClientDuplexStream, credentials, loadPackageDefinition, Metadata } from '@grpc/grpc-js';
import { fromJSON } from '@grpc/proto-loader';

// A delta ADS client that shares nothing with ours: another protobuf library, and the messages as they are documented
// by Envoy, written down again. It sends exactly what a test says and judges nothing.

export interface ForeignResponse {
  readonly systemVersionInfo: string;
  readonly resources: readonly {
    readonly name: string;
    readonly version: string;
    readonly aliases: readonly string[];
    readonly resource: { readonly typeUrl: string; readonly value: Buffer };
  }[];
  readonly typeUrl: string;
  readonly removedResources: readonly string[];
  readonly nonce: string;
}

export interface ForeignRequest {
  readonly node?: { readonly id: string };
  readonly typeUrl: string;
  readonly resourceNamesSubscribe?: readonly string[];
  readonly resourceNamesUnsubscribe?: readonly string[];
  readonly initialResourceVersions?: Readonly<Record<string, string>>;
  readonly responseNonce?: string;
  readonly errorDetail?: { readonly code: number; readonly message: string };
}

export class ForeignAdsClient {
  readonly received: ForeignResponse[] = [];
  readonly #client: ServiceClient;
  readonly #stream: ClientDuplexStream<ForeignRequest, ForeignResponse>;
  readonly #waiting: (() => void)[] = [];
  #read = 0;
  #ended: Error | undefined;

  constructor(port: number, headers: Readonly<Record<string, string>> = {}) {
    this.#client = new Service(`127.0.0.1:${port}`, credentials.createInsecure(), {
      'grpc.use_local_subchannel_pool': 1,
      'grpc-node.flow_control_window': 65_535,
    });
    const metadata = new Metadata();
    for (const [name, value] of Object.entries(headers)) metadata.set(name, value);
    this.#stream = this.#client.deltaAggregatedResources(metadata);
    this.#stream.on('data', (response: ForeignResponse) => {
      this.received.push(response);
      this.#wake();
    });
    this.#stream.on('error', (error: Error) => {
      this.#ended = error;
      this.#wake();
    });
  }

  send(request: ForeignRequest): void {
    this.#stream.write(request);
  }

  /** The next response that was not read yet. Rejects when the stream has ended. */
  async next(): Promise<ForeignResponse> {
    for (;;) {
      const response = this.received[this.#read];
      if (response !== undefined) {
        this.#read++;
        return response;
      }
      if (this.#ended !== undefined) throw this.#ended;
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
  }

  /** Reads the next response and accepts it. */
  async accept(): Promise<ForeignResponse> {
    const response = await this.next();
    this.send({ typeUrl: response.typeUrl, responseNonce: response.nonce });
    return response;
  }

  pause(): void {
    this.#stream.pause();
  }

  resume(): void {
    this.#stream.resume();
  }

  close(): void {
    this.#stream.cancel();
    this.#client.close();
  }

  #wake(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }
}

const PROTO = `
syntax = "proto3";
package envoy.service.discovery.v3;
message Any { string type_url = 1; bytes value = 2; }
message Status { int32 code = 1; string message = 2; }
message Node { string id = 1; string cluster = 2; }
message DeltaDiscoveryRequest {
  Node node = 1;
  string type_url = 2;
  repeated string resource_names_subscribe = 3;
  repeated string resource_names_unsubscribe = 4;
  map<string, string> initial_resource_versions = 5;
  string response_nonce = 6;
  Status error_detail = 7;
}
message DeltaDiscoveryResponse {
  string system_version_info = 1;
  repeated Resource resources = 2;
  string type_url = 4;
  string nonce = 5;
  repeated string removed_resources = 6;
}
message Resource {
  string version = 1;
  Any resource = 2;
  string name = 3;
  repeated string aliases = 4;
}
service AggregatedDiscoveryService {
  rpc DeltaAggregatedResources(stream DeltaDiscoveryRequest) returns (stream DeltaDiscoveryResponse);
}`;

// protobufjs is what @grpc/proto-loader is made of: taken from there, so that both are of one version.
const protobuf = createRequire(createRequire(import.meta.url).resolve('@grpc/proto-loader'))('protobufjs');
const definition = fromJSON(protobuf.parse(PROTO).root.toJSON(), { defaults: true, arrays: true });
// biome-ignore lint/suspicious/noExplicitAny: the tree of a loaded package has no static type
const Service = (loadPackageDefinition(definition) as any).envoy.service.discovery.v3
  .AggregatedDiscoveryService as new (
  ...args: ConstructorParameters<typeof Client>
) => ServiceClient;

type ServiceClient = Client & {
  deltaAggregatedResources(metadata: Metadata): ClientDuplexStream<ForeignRequest, ForeignResponse>;
};
