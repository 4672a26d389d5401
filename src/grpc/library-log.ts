import { setLogger } from '@grpc/grpc-js';
import { logger } from '../telemetry/log.js';

// What the library has to say goes where everything goes, at debug level: callers hear of failures as statuses.
const log = logger('grpc');
const speak = (...parts: unknown[]): void => log.debug(parts.join(' '));
setLogger({ error: speak, info: speak, debug: speak });
