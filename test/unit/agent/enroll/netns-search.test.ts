import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Test, test } from 'tap';
import { findPodProcesses } from '../../../../src/agent/enroll/netns-search.js';

const UID = '0a1b2c3d-1111-2222-3333-444455556666';
const CONTAINER = 'c'.repeat(64);
const wanted = (containers: string[] = []) => new Map([['pod', { cgroup: UID, containers }]]);

interface Process {
  readonly cgroup: string;
  readonly start?: number;
  readonly name?: string;
}

/** A directory like /proc; each process with its cgroups, its start and a network namespace of its own. */
function proc(t: Test, processes: Record<string, Process>) {
  const root = mkdtempSync(join(tmpdir(), 'meltemi-proc-'));
  t.teardown(() => rmSync(root, { recursive: true }));
  for (const [pid, { cgroup, start = 1, name = 'app' }] of Object.entries<Process>({
    1: { cgroup: '0::/init' },
    ...processes,
  })) {
    mkdirSync(join(root, pid, 'ns'), { recursive: true });
    writeFileSync(join(root, pid, 'cgroup'), `${cgroup}\n`);
    const before = Array.from({ length: 18 }, () => '0').join(' ');
    writeFileSync(join(root, pid, 'stat'), `${pid} (${name}) S ${before} ${start} 0 0\n`);
    writeFileSync(join(root, pid, 'ns', 'net'), '');
  }
  writeFileSync(join(root, 'uptime'), '');
  return root;
}

const SPELLINGS = {
  'cgroupfs, version 2': `0::/kubepods/burstable/pod${UID}/${CONTAINER}`,
  'cgroupfs, version 1': `12:pids:/node-1/kubepods/besteffort/pod${UID}/${CONTAINER}\n0::/`,
  systemd: `0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod${UID.replaceAll('-', '_')}.slice/cri-containerd-${CONTAINER}.scope`,
  'from a cgroup namespace of the agent': `0::/../../pod${UID}/${CONTAINER}`,
};

for (const [name, cgroup] of Object.entries(SPELLINGS)) {
  test(`a process is known by its cgroup: ${name}`, async (t) => {
    const root = proc(t, { 7: { cgroup }, 8: { cgroup: '0::/system.slice/other.service' } });
    t.match(findPodProcesses(wanted(), root).get('pod'), { pid: 7, netns: join(root, '7', 'ns', 'net') });
  });
}

test('or by a container of its pod', async (t) => {
  const root = proc(t, { 7: { cgroup: `0::/docker/${CONTAINER}` } });
  t.match(findPodProcesses(wanted([CONTAINER]), root).get('pod'), { pid: 7 });
  t.equal(findPodProcesses(wanted(), root).size, 0);
});

test('the oldest process counts, whatever it calls itself', async (t) => {
  const cgroup = SPELLINGS['cgroupfs, version 2'];
  const root = proc(t, {
    7: { cgroup, start: 30 },
    8: { cgroup, start: 20, name: 'a) S 0 0 (b' },
    9: { cgroup, start: 25 },
  });
  t.match(findPodProcesses(wanted(), root).get('pod'), { pid: 8 });
});

test('a pod without processes is not found, and one that ends meanwhile is no error', async (t) => {
  const root = proc(t, {});
  mkdirSync(join(root, '99'));
  t.equal(findPodProcesses(wanted(), root).size, 0);
});
