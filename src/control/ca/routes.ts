import { type Answer, json, type Route } from '../../lib/http-server.js';
import type { Authority } from './authority.js';
import { ROTATION_PHASES } from './rotation.js';

/**
 * What an operator may ask of the CA, for a local admin address:
 * `GET /ca`, `POST /ca/rotate?phase=add|sign|drop[&force=true]`, `POST /ca/rotate-intermediate`,
 * `POST /ca/revoke?serial=HEX`.
 */
export function caRoutes(authority: Authority): ReadonlyMap<string, Route> {
  return new Map<string, Route>([
    ['GET /ca', () => json(authority.describe())],
    ['POST /ca/rotate', (url) => rotate(authority, url)],
    ['POST /ca/revoke', (url) => revoke(authority, url)],
    [
      'POST /ca/rotate-intermediate',
      async () => {
        const result = await authority.rotateIntermediate();
        return result.ok ? json(authority.describe()) : conflict(result.error);
      },
    ],
  ]);
}

async function rotate(authority: Authority, url: URL): Promise<Answer> {
  const asked = url.searchParams.get('phase');
  const phase = ROTATION_PHASES.find((each) => each === asked);
  if (phase === undefined) {
    return { status: 400, body: `phase is ${JSON.stringify(asked)}, not one of ${ROTATION_PHASES.join(', ')}\n` };
  }
  const result = await authority.rotateRoot(phase, url.searchParams.get('force') === 'true');
  return result.ok ? json(authority.describe()) : conflict(result.error);
}

async function revoke(authority: Authority, url: URL): Promise<Answer> {
  const serial = url.searchParams.get('serial');
  if (serial === null) return { status: 400, body: 'serial is missing: the serial number of a certificate in hex\n' };
  const result = await authority.revoke(serial);
  return result.ok ? json(authority.describe()) : conflict(result.error);
}

function conflict(error: string): Answer {
  return { status: 409, body: `${error}\n` };
}
