/** Typed calls for foreign-ads.ts. */
import { join } from 'node:path';
import { type Answer, type Place, Worker } from './worker.js';

export type ForeignCommand = ListenCommand | PushCommand | { readonly op: 'heard' };

interface ListenCommand {
  readonly op: 'listen';
  readonly ip: string;
  readonly port: number;
  readonly cert: string;
  readonly key: string;
}

interface PushCommand extends ForeignPush {
  readonly op: 'push';
}

/** One DeltaDiscoveryResponse for every stream. */
export interface ForeignPush {
  readonly typeUrl: string;
  readonly nonce: string;
  readonly removed?: readonly string[];
  readonly resources: readonly { readonly name: string; readonly typeUrl: string; readonly hex: string }[];
}

/** One request of a client. */
export interface Heard {
  readonly peer: string;
  readonly typeUrl: string;
  readonly nonce: string;
  /** What was wrong with the response of that nonce; empty for an ACK. */
  readonly error: string;
  /** How many resources it said it knows. */
  readonly known: number;
}

export class ForeignAds extends Worker {
  constructor(place: Place) {
    super('foreign control plane', place, [process.execPath, join(import.meta.dirname, 'foreign-ads.js')]);
  }

  listen(address: { ip: string; port: number; cert: string; key: string }): Promise<Answer> {
    return this.call('listen', address);
  }

  push(push: ForeignPush): Promise<Answer & { streams?: number }> {
    return this.call('push', push);
  }

  async heard(): Promise<readonly Heard[]> {
    return (await this.call<Answer & { heard?: Heard[] }>('heard')).heard ?? [];
  }
}
