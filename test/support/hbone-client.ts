/** Typed calls for the foreign HBONE peer (hbone-peer.ts), which runs as a process in a namespace of choice. */
import { join } from 'node:path';
import { type Answer, type Place, Worker } from './worker.js';

export interface Identity {
  /** Paths of PEM files. */
  readonly cert: string;
  readonly key: string;
  /** Roots the peer must chain to; without it any certificate of the peer will do. */
  readonly ca?: string;
  /** SPIFFE id the server must present. */
  readonly expect?: string;
}

interface Dial {
  readonly address: string;
  readonly port: number;
  /** None: a TLS client without a certificate. */
  readonly identity?: Identity;
  /** Default ['h2']. */
  readonly alpn?: readonly string[];
  readonly maxVersion?: 'TLSv1.2' | 'TLSv1.3';
}

export interface ConnectCommand extends Dial {
  /** `:authority`; empty leaves it out. */
  readonly authority: string;
  /** Default CONNECT. */
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  /** Sent once the tunnel is open. */
  readonly send?: string;
  /** Characters to wait for. */
  readonly expect?: number;
}

export interface RawCommand extends Dial {
  /** Hex strings, each one write under TLS. */
  readonly frames: readonly string[];
  readonly timeoutMs?: number;
}

export interface ListenCommand {
  readonly address: string;
  readonly port: number;
  readonly identity: Identity;
  readonly forwardHost?: string;
  readonly forwardPort: number;
  /** Refuse every CONNECT with this status. */
  readonly status?: number;
  /** Listen no more than told before: only say what was served. */
  readonly report?: boolean;
}

export interface Connected extends Answer {
  readonly status?: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly received?: string;
}

export class HbonePeer extends Worker {
  constructor(name: string, place: Place) {
    super(name, place, [process.execPath, join(import.meta.dirname, 'hbone-peer.js')]);
  }

  /** One tunnel: status of the CONNECT and what came back. `refused` when there was no answer to the CONNECT. */
  connect(command: ConnectCommand): Promise<Connected> {
    return this.call('connect', command);
  }

  /** Opens a tunnel that stays under `key`. */
  keep(key: string, command: ConnectCommand): Promise<Connected> {
    return this.call('keep', { ...command, key });
  }

  /** Resolves when the kept tunnel ends (`wait`) or ends it. */
  release(key: string, wait = false): Promise<Answer & { ended?: string; received?: string }> {
    return this.call('release', { key, wait });
  }

  /** Arbitrary bytes under TLS. `how`: eof, close, a code, or `open` when the peer did not end it in time. */
  raw(command: RawCommand): Promise<Answer & { received?: string }> {
    return this.call('raw', command);
  }

  listen(command: ListenCommand): Promise<Answer & { port?: number }> {
    return this.call('listen', command);
  }

  /** Request headers of every CONNECT served so far, with the client's names as `peer`. */
  async served(): Promise<readonly Readonly<Record<string, string>>[]> {
    const { served } = await this.call<Answer & { served?: Record<string, string>[] }>('listen', { report: true });
    return served ?? [];
  }
}
