/**
 * A foreign HBONE peer in a process of its own, on Node's http2: it shares no code with the mesh. Reads JSON commands
 * from stdin (see hbone-client.ts), so that it can run inside a pod's network namespace.
 */
import { readFileSync } from 'node:fs';
import * as http2 from 'node:http2';
import * as net from 'node:net';
import { createInterface } from 'node:readline';
import * as tls from 'node:tls';
import type { ConnectCommand, Identity, ListenCommand, RawCommand } from './hbone-client.js';

interface Command {
  readonly id: number;
  readonly op: 'connect' | 'raw' | 'listen' | 'keep' | 'release';
}

const servers: http2.Http2SecureServer[] = [];
const served: object[] = [];
const kept = new Map<string, { session: http2.ClientHttp2Session; stream: http2.ClientHttp2Stream; state: Kept }>();

interface Kept {
  received: string;
  ended: string;
}

createInterface({ input: process.stdin }).on('line', (line) => {
  const command = JSON.parse(line) as Command & AnyCommand;
  const answer = (facts: object): void => {
    process.stdout.write(`${JSON.stringify({ id: command.id, ...facts })}\n`);
  };
  const failed = (error: Error): void => answer({ outcome: 'refused', how: codeOf(error), error: error.message });
  OPS[command.op](command).then((facts) => answer({ outcome: 'connected', ...facts }), failed);
});

type AnyCommand = ConnectCommand & RawCommand & ListenCommand & { key: string; wait?: boolean };
const OPS: Record<Command['op'], (command: AnyCommand) => Promise<object>> = { connect, raw, listen, keep, release };

/** One CONNECT: opens a tunnel, sends `send`, reads until `expect` bytes came or the peer ended. */
async function connect(command: ConnectCommand): Promise<object> {
  const session = await open(command);
  const problem = new Promise<never>((_, reject) => session.once('error', reject));
  const stream = session.request(headersOf(command), { endStream: false });
  try {
    return await Promise.race([problem, converse(stream, command)]);
  } finally {
    stream.close();
    session.destroy();
  }
}

function headersOf({ authority, method = 'CONNECT', headers = {} }: ConnectCommand): http2.OutgoingHttpHeaders {
  return { ':method': method, ...(authority !== '' && { ':authority': authority }), ...headers };
}

async function converse(stream: http2.ClientHttp2Stream, { send, expect = 0 }: ConnectCommand): Promise<object> {
  let received = '';
  let headers: http2.IncomingHttpHeaders = {};
  let status = 0;
  await new Promise<void>((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error('no answer within 10 s')), 10_000);
    const done = (): void => {
      clearTimeout(timer);
      resolve();
    };
    stream.on('response', (fields) => {
      headers = fields;
      status = Number(fields[':status']);
      if (status !== 200) return done();
      if (send !== undefined) stream.write(send);
      if (expect === 0) done();
    });
    stream.setEncoding('utf8').on('data', (text: string) => {
      received += text;
      if (received.length >= expect) done();
    });
    const failed = (error: Error): void => {
      clearTimeout(timer);
      reject(error);
    };
    stream.on('end', () => (status === 0 ? failed(new Error('ended without an answer')) : done()));
    stream.on('error', failed);
  });
  return { status, headers, received };
}

/** A tunnel that stays open under `key`; `release` tells what became of it. */
async function keep(command: ConnectCommand & { key: string }): Promise<object> {
  const session = await open(command);
  const state: Kept = { received: '', ended: '' };
  const end = (how: string) => (): void => {
    state.ended ||= how;
  };
  session.on('error', (error) => end(codeOf(error))());
  session.on('close', end('session closed'));
  const stream = session.request(headersOf(command), { endStream: false });
  stream.on('end', end('end'));
  stream.on('error', (error) => end(codeOf(error))());
  stream.setEncoding('utf8').on('data', (text: string) => {
    state.received += text;
  });
  kept.set(command.key, { session, stream, state });
  return await new Promise((resolve) => {
    stream.on('response', (fields) => {
      if (command.send !== undefined) stream.write(command.send);
      resolve({ status: Number(fields[':status']) });
    });
    stream.on('close', () => resolve({ status: 0, ended: state.ended }));
  });
}

/** With `wait`, resolves when the kept tunnel ended; without, ends it. */
async function release({ key, wait }: { key: string; wait?: boolean }): Promise<object> {
  const tunnel = kept.get(key);
  if (tunnel === undefined) return { ended: 'unknown key' };
  const { session, stream, state } = tunnel;
  if (wait && state.ended === '') {
    await new Promise((resolve) => {
      stream.on('close', resolve);
      session.on('close', resolve);
      setTimeout(resolve, 10_000);
    });
  }
  kept.delete(key);
  const ended = state.ended;
  session.destroy();
  return { ended, received: state.received };
}

/** Writes bytes under a valid (or not so valid) mTLS connection and reads until it ends. */
async function raw(command: RawCommand): Promise<object> {
  const socket = await dial(command);
  return await new Promise((resolve) => {
    const chunks: Buffer[] = [];
    const timer = setTimeout(() => end('open'), command.timeoutMs ?? 5000);
    const end = (how: string): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve({ received: Buffer.concat(chunks).toString('hex'), how });
    };
    socket.on('data', (chunk) => chunks.push(chunk));
    socket.on('end', () => end('eof'));
    socket.on('error', (error) => end(codeOf(error)));
    socket.on('close', () => end('close'));
    for (const hex of command.frames) socket.write(Buffer.from(hex, 'hex'));
  });
}

/** Listens for HBONE; each CONNECT is answered with `status` and dialled to `forwardPort` on loopback. -> {port} */
async function listen(command: ListenCommand): Promise<object> {
  if (command.report) return { served };
  const server = http2.createSecureServer({
    ...material(command.identity),
    requestCert: true,
    rejectUnauthorized: true,
    minVersion: 'TLSv1.3',
    ALPNProtocols: ['h2'],
  });
  server.on('stream', (stream, headers) => {
    const socket = (stream.session as http2.Http2Session).socket as tls.TLSSocket;
    served.push({ ...headers, peer: socket.getPeerCertificate().subjectaltname });
    if (command.status !== undefined && command.status !== 200) {
      stream.respond({ ':status': command.status }, { endStream: true });
      return;
    }
    const upstream = net.connect({ host: command.forwardHost ?? '127.0.0.1', port: command.forwardPort });
    upstream.on('connect', () => {
      stream.respond({ ':status': 200 });
      upstream.pipe(stream);
      stream.pipe(upstream);
    });
    upstream.on('error', () => stream.close(http2.constants.NGHTTP2_CONNECT_ERROR));
    stream.on('error', () => upstream.destroy());
    stream.on('aborted', () => upstream.destroy());
  });
  server.on('sessionError', () => undefined);
  servers.push(server);
  await new Promise<void>((resolve, reject) => {
    server.on('error', reject);
    server.listen({ host: command.address, port: command.port }, resolve);
  });
  return { port: (server.address() as net.AddressInfo).port };
}

async function open(command: ConnectCommand): Promise<http2.ClientHttp2Session> {
  const socket = await dial(command);
  return http2.connect(`https://${net.isIPv6(command.address) ? `[${command.address}]` : command.address}`, {
    createConnection: () => socket,
  });
}

function dial({
  address,
  port,
  identity,
  alpn = ['h2'],
  maxVersion,
}: ConnectCommand | RawCommand): Promise<tls.TLSSocket> {
  return new Promise((resolve, reject) => {
    const socket = tls.connect({
      host: address,
      port,
      ...(identity !== undefined && material(identity)),
      ALPNProtocols: [...alpn],
      ...(maxVersion !== undefined && { maxVersion }),
      rejectUnauthorized: identity?.ca !== undefined,
      checkServerIdentity: (_, peer) => {
        const wanted = identity?.expect;
        if (wanted === undefined || peer.subjectaltname === `URI:${wanted}`) return undefined;
        return new Error(`the server is ${peer.subjectaltname}, not ${wanted}`);
      },
    });
    socket.setTimeout(10_000, () => socket.destroy(new Error('nothing for 10 s')));
    socket.once('secureConnect', () => resolve(socket));
    socket.once('error', reject);
    socket.once('close', () => reject(new Error('closed during the handshake')));
  });
}

function material({ cert, key, ca }: Identity): { cert: Buffer; key: Buffer; ca?: Buffer } {
  return { cert: readFileSync(cert), key: readFileSync(key), ...(ca !== undefined && { ca: readFileSync(ca) }) };
}

function codeOf(error: Error): string {
  return (error as NodeJS.ErrnoException).code ?? error.message;
}
