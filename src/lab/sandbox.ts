import type { ChildProcess } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { spawnBound } from './children.js';

export interface SandboxFiles {
  readonly hostname: string;
  readonly resolvConf: string;
  readonly hosts: string;
  readonly namespace: string;
  readonly token: string;
}

/**
 * What the containers of a pod share: a network namespace (a new one, or that of `netns`), a host name, and a view of
 * the files that has the pod's own /etc/resolv.conf, /etc/hosts and an empty /run with the service account in it. The
 * returned process holds them all; they go with it.
 */
export async function startSandbox(
  directory: string,
  files: SandboxFiles,
  netns: string | undefined,
  env: NodeJS.ProcessEnv,
): Promise<ChildProcess> {
  const source = join(directory, 'files');
  mkdirSync(join(source, SERVICE_ACCOUNT), { recursive: true });
  mkdirSync(join(source, '.pod'), { recursive: true });
  mkdirSync(join(directory, 'run'), { recursive: true });
  writeFileSync(join(source, '.pod/resolv.conf'), files.resolvConf);
  writeFileSync(join(source, '.pod/hosts'), files.hosts);
  writeFileSync(join(source, SERVICE_ACCOUNT, 'namespace'), files.namespace);
  writeFileSync(join(source, SERVICE_ACCOUNT, 'token'), files.token, { mode: 0o600 });
  const unshare = [
    'unshare',
    ...(netns === undefined ? ['--net'] : []),
    '--mount',
    '--uts',
    '--propagation',
    'private',
    '--',
  ];
  const enter = netns === undefined ? [] : ['nsenter', `--net=${netns}`, '--'];
  const child = spawnBound([...enter, ...unshare, 'sh', '-euc', SCRIPT, 'sandbox', directory, files.hostname], {
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let said = '';
  child.stderr?.setEncoding('utf8').on('data', (chunk: string) => {
    if (said.length < MAX_MESSAGE) said += chunk;
  });
  await new Promise<void>((resolve, reject) => {
    child.stdout?.once('data', () => resolve());
    child.once('exit', (code) => reject(new Error(`the sandbox ended with ${code}: ${said.trim()}`)));
  });
  return child;
}

/** Below /run. */
const SERVICE_ACCOUNT = 'secrets/kubernetes.io/serviceaccount';
const MAX_MESSAGE = 4096;

/**
 * The targets of links are looked up first, as they may lie in the /run that gets covered. `mount --move` puts the
 * pod's /run, filled beforehand, in place of the machine's.
 */
const SCRIPT = `
directory=$1
resolv=$(readlink -f /etc/resolv.conf || echo /etc/resolv.conf)
hosts=$(readlink -f /etc/hosts || echo /etc/hosts)
mount -n -t tmpfs -o mode=0755,size=64m pod "$directory/run"
cp -R "$directory/files/." "$directory/run/"
for target in "$resolv" "$hosts"; do
  case $target in /run/*) mkdir -p "$directory$(dirname "$target")"; : > "$directory$target" ;; esac
done
mount -n --move "$directory/run" /run
[ -L /var/run ] || mount -n --bind /run /var/run
[ -e "$resolv" ] || { echo "this machine has no /etc/resolv.conf to put the pod's in place of" >&2; exit 1; }
mount -n --bind /run/.pod/resolv.conf "$resolv"
[ ! -e "$hosts" ] || mount -n --bind /run/.pod/hosts "$hosts"
echo "$2" > /proc/sys/kernel/hostname
echo
exec sleep infinity
`;
