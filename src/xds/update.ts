/** What an xDS message says, on its way up: names, versions and bytes, nothing decoded. */

export interface ChangedResource {
  /** The resource's own name (`cluster//Pod/ns/name`), whatever name it was asked for by. */
  readonly name: string;
  readonly version: string;
  /** Other names it answers to; sent to on-demand subscribers only. */
  readonly aliases: readonly string[];
  /** The encoded message: a view into the response, so copy it to keep a small one for long. */
  readonly bytes: Uint8Array;
}

export interface Update {
  readonly typeUrl: string;
  readonly changed: readonly ChangedResource[];
  /** Resources that are gone, and names that were asked for and do not exist. */
  readonly removed: readonly string[];
}

export interface RefusedResource {
  readonly name: string;
  /** What is wrong with it, for the operator of the server. */
  readonly reason: string;
}

/**
 * Applies an update at once and returns what it could not accept. Decode all, collect all: what is refused keeps its
 * last good value, everything else of the message takes effect.
 */
export type UpdateHandler = (update: Update) => readonly RefusedResource[];
