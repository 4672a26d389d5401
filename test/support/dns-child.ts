/**
 * Either end of DNS, to be started in a network namespace:
 *   dns-child.js nameserver IP…      answers on port 53: 192.0.2.7 and 2001:db8::7 for names under example.com
 *                                    (60 addresses for many.example.com), refuses all others
 *   dns-child.js ask SERVER MS NAME… asks for the names in turn for MS milliseconds and prints counts as JSON
 */
import { setTimeout as wait } from 'node:timers/promises';
import { type DnsQuery, encodeReply } from '../../src/lib/dns-codec.js';
import { askUdp, startNameserver } from './dns-client.js';

const [role, ...rest] = process.argv.slice(2);
if (role === 'nameserver') {
  for (const ip of rest) await startNameserver(answer, ip, 53);
  console.log('ready');
} else {
  const [server = '', ms = '0', ...names] = rest;
  console.log(JSON.stringify(await askInTurn(server, Number(ms), names)));
}

function answer(query: DnsQuery, protocol: 'udp' | 'tcp'): Uint8Array {
  const known = query.hostname?.endsWith('example.com') === true;
  const many = query.hostname === 'many.example.com';
  const ips =
    many && query.type === 'A' ? Array.from({ length: 60 }, (_, i) => `192.0.2.${i + 100}`) : SINGLE[query.type];
  const records = (known ? (ips ?? []) : []).map((data) => ({
    name: query.name,
    type: query.type as 'A',
    ttl: 5,
    data,
  }));
  const rcode = known ? 'NOERROR' : 'NXDOMAIN';
  return encodeReply(query, { rcode, authoritative: true, records }, protocol === 'udp' ? query.maxUdpBytes : 65535);
}

async function askInTurn(server: string, ms: number, names: string[]) {
  const end = Date.now() + ms;
  const outcome = { answered: 0, failed: 0, slowestMs: 0 };
  while (Date.now() < end) {
    for (const name of names) {
      const started = performance.now();
      const reply = await askUdp(name, 'A', server, 53, 2000).catch(() => undefined);
      outcome.slowestMs = Math.max(outcome.slowestMs, Math.round(performance.now() - started));
      if (reply !== undefined && reply.rcode === 0 && reply.records.length > 0) outcome.answered += 1;
      else outcome.failed += 1;
    }
    await wait(10);
  }
  return outcome;
}

const SINGLE: Readonly<Record<string, string[]>> = { A: ['192.0.2.7'], AAAA: ['2001:db8::7'] };
