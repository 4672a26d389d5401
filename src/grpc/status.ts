import { status } from '@grpc/grpc-js';

/** gRPC status codes by name, and the error that carries one. */
export const StatusCode = status;
export type StatusCode = status;

/** What a handler throws to choose the status a peer sees, and what a failed call rejects with. */
export class RpcError extends Error {
  override readonly name = 'RpcError';

  constructor(
    readonly code: StatusCode,
    message: string,
  ) {
    super(message);
  }

  /** `UNAVAILABLE: connection refused` */
  override toString(): string {
    return `${StatusCode[this.code]}: ${this.message}`;
  }
}
