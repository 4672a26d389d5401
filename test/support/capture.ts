/** Watches the packets of a network namespace with tcpdump and reads them, so that "encrypted" is seen and not said. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';

export interface Packet {
  readonly srcIp: string;
  readonly srcPort: number;
  readonly dstIp: string;
  readonly dstPort: number;
  /** TCP payload. */
  readonly payload: Buffer;
}

export class Capture {
  readonly packets: Packet[] = [];
  #rest: Buffer = Buffer.alloc(0);
  #linkType: number | undefined;
  readonly #child: ChildProcess;
  readonly #waiting = new Set<() => void>();

  private constructor(child: ChildProcess) {
    this.#child = child;
  }

  /**
   * Starts a capture on all interfaces of the namespace at `netns` (a path); resolves once packets are being seen. With
   * a `snapLength` of few bytes many more packets fit into the kernel's buffer: without one, a burst loses some.
   */
  static async start(netns: string, filter = 'tcp', snapLength = 0): Promise<Capture> {
    const args = [
      `--net=${netns}`,
      'tcpdump',
      '-i',
      'any',
      '-n',
      '-s',
      String(snapLength),
      '-B',
      String(BUFFER_KIB),
      '-w',
      '-',
      '-U',
      '--immediate-mode',
      filter,
    ];
    const child = spawn('nsenter', args, { stdio: ['ignore', 'pipe', 'pipe'] });
    const capture = new Capture(child);
    child.stdout.on('data', (chunk: Buffer) => capture.#read(chunk));
    let messages = '';
    await new Promise<void>((resolve, reject) => {
      child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
        messages += chunk;
        if (messages.includes('listening on')) resolve();
      });
      child.on('exit', (code) => reject(new Error(`tcpdump ended with ${code}: ${messages}`)));
      child.on('error', reject);
    });
    return capture;
  }

  /** Resolves when `condition` holds for the packets so far; rejects after `timeoutMs` with what was seen. */
  async until(condition: (packets: readonly Packet[]) => boolean, timeoutMs = 10_000): Promise<void> {
    const deadline = Date.now() + timeoutMs;
    while (!condition(this.packets)) {
      if (Date.now() > deadline) throw new Error(`the capture did not show it: ${this.#summary()}`);
      await new Promise<void>((resolve) => {
        const done = (): void => {
          clearTimeout(timer);
          this.#waiting.delete(done);
          resolve();
        };
        const timer = setTimeout(done, deadline - Date.now() + 1);
        this.#waiting.add(done);
      });
    }
  }

  async stop(): Promise<readonly Packet[]> {
    if (this.#child.exitCode === null) {
      const closed = once(this.#child, 'close');
      this.#child.kill('SIGINT');
      await closed;
    }
    return this.packets;
  }

  #summary(): string {
    const flows = new Map<string, number>();
    for (const { srcIp, srcPort, dstIp, dstPort, payload } of this.packets) {
      const flow = `${srcIp}:${srcPort}>${dstIp}:${dstPort}`;
      flows.set(flow, (flows.get(flow) ?? 0) + payload.length);
    }
    return [...flows].map(([flow, bytes]) => `${flow} ${bytes} B`).join(', ') || 'no packet at all';
  }

  #read(chunk: Buffer): void {
    let data = Buffer.concat([this.#rest, chunk]);
    if (this.#linkType === undefined) {
      if (data.length < GLOBAL_HEADER) {
        this.#rest = data;
        return;
      }
      this.#linkType = data.readUInt32LE(20);
      data = data.subarray(GLOBAL_HEADER);
    }
    while (data.length >= RECORD_HEADER) {
      const length = data.readUInt32LE(8);
      if (data.length < RECORD_HEADER + length) break;
      const packet = parseFrame(data.subarray(RECORD_HEADER, RECORD_HEADER + length), this.#linkType);
      if (packet !== undefined) this.packets.push(packet);
      data = data.subarray(RECORD_HEADER + length);
    }
    this.#rest = data;
    for (const wake of this.#waiting) wake();
  }
}

/** True when some packet carries a ServerHello whose supported_versions extension chose TLS 1.3. */
export function choosesTls13(packets: readonly Packet[]): boolean {
  return packets.some(
    ({ payload }) =>
      payload[0] === 0x16 && payload[5] === 2 && payload.includes(Buffer.from([0x00, 0x2b, 0x00, 0x02, 0x03, 0x04])),
  );
}

/** True when the bytes occur in one packet's payload. */
export function shows(packets: readonly Packet[], text: string): boolean {
  return packets.some(({ payload }) => payload.includes(text));
}

function parseFrame(frame: Buffer, linkType: number | undefined): Packet | undefined {
  const [offset, etherType] =
    linkType === LINUX_SLL2
      ? [20, frame.readUInt16BE(0)]
      : linkType === LINUX_SLL
        ? [16, frame.readUInt16BE(14)]
        : [14, frame.readUInt16BE(12)];
  const ip = frame.subarray(offset);
  if (etherType === 0x0800) {
    if (ip[9] !== TCP) return undefined;
    const total = ip.readUInt16BE(2);
    return parseTcp(
      ip.subarray(((ip[0] ?? 0) & 15) * 4, total),
      [...ip.subarray(12, 16)].join('.'),
      [...ip.subarray(16, 20)].join('.'),
    );
  }
  if (etherType === 0x86dd) {
    if (ip[6] !== TCP) return undefined;
    return parseTcp(
      ip.subarray(40, 40 + ip.readUInt16BE(4)),
      ipv6Text(ip.subarray(8, 24)),
      ipv6Text(ip.subarray(24, 40)),
    );
  }
  return undefined;
}

function parseTcp(tcp: Buffer, srcIp: string, dstIp: string): Packet | undefined {
  if (tcp.length < 20) return undefined;
  const payload = Buffer.from(tcp.subarray(((tcp[12] ?? 0) >> 4) * 4));
  return { srcIp, dstIp, srcPort: tcp.readUInt16BE(0), dstPort: tcp.readUInt16BE(2), payload };
}

/** Uncompressed lower-case groups, `fd00:0:0:0:0:0:0:1`. */
function ipv6Text(bytes: Buffer): string {
  return Array.from({ length: 8 }, (_, i) => bytes.readUInt16BE(i * 2).toString(16)).join(':');
}

const BUFFER_KIB = 32 * 1024;
const GLOBAL_HEADER = 24;
const RECORD_HEADER = 16;
const LINUX_SLL = 113;
const LINUX_SLL2 = 276;
const TCP = 6;
