import t from 'tap';
import { parseAgentConfig } from '../../../src/agent/config.js';

const SMALL = `
node: node-1
xds: { address: "10.0.0.1:15012", rootCert: /roots.pem, token: /token }
ca: { address: "10.0.0.1:15012", rootCert: /roots.pem }
pods: { directory: /pods }
stateDir: /state
`;

t.test('what is left out has a default', async (t) => {
  const parsed = parseAgentConfig(SMALL);
  t.match(parsed, {
    ok: true,
    value: {
      node: 'node-1',
      cluster: 'Kubernetes',
      trustDomain: 'cluster.local',
      ca: { ttlSeconds: 86_400, token: '' },
      admin: { socket: '', port: 15000 },
      metricsPort: 15020,
      readinessPort: 15021,
      accessLog: 'stdout',
      dns: { enabled: true, port: 15053 },
      engine: {},
      drainSeconds: 5,
    },
  });
});

t.test('engine options pass by name, only those that are given', async (t) => {
  t.match(parseAgentConfig(`${SMALL}engine: { spinUs: 0, congestionControl: cubic }\n`), {
    value: { engine: { spinUs: 0, congestionControl: 'cubic' } },
  });
});

t.test('all problems are told at once, with their place', async (t) => {
  const parsed = parseAgentConfig(`
xds: { address: "", colour: red }
ca: { address: a:1 }
pods: {}
stateDir: /state
metricsPort: 70000
logLevel: loud
meshPrefixes: [10.0.0.0/33]
engine: { warp: 9, threads: many }
adress: typo
`);
  t.equal(parsed.ok, false);
  if (parsed.ok) return;
  for (const problem of [
    'node is missing, not a string',
    'xds.address is "", not a string',
    'ca.rootCert is missing: without roots no peer can be verified',
    'pods.directory is missing, not a string',
    'metricsPort is 70000, not a number from 0 to 65535',
    'logLevel is "loud", which is no level',
    'meshPrefixes names "10.0.0.0/33", which is no CIDR block',
    'engine.threads is "many", not a number',
  ]) {
    t.ok(
      parsed.error.some((each) => each.startsWith(problem)),
      problem,
    );
  }
  for (const unknown of ['xds.colour', 'engine.warp', 'adress']) {
    t.ok(
      parsed.error.some((each) => each.startsWith(`${unknown} is no setting`)),
      unknown,
    );
  }
});

t.test('what is no YAML is told with its line', async (t) => {
  const parsed = parseAgentConfig('node: [\n');
  t.equal(parsed.ok, false);
  t.match(parsed.ok ? [] : parsed.error, [/line \d/]);
});

t.test('the CNI plugin is off unless asked for, and exempts what is never captured', async (t) => {
  const parse = (more: string) =>
    parseAgentConfig(`{node: a, xds: {address: "x:1"}, ca: {address: "x:1", rootCert: r}, stateDir: /s, ${more}}`);
  t.match(parse('pods: {directory: /p}'), { ok: true, value: { cni: undefined } });
  t.match(parse('pods: {kubernetes: true, excludedNamespaces: [kube-system, infra]}, cni: {enabled: true}'), {
    value: {
      cni: {
        socket: '/run/meltemi/cni.sock',
        binDir: '/opt/cni/bin',
        confDir: '/etc/cni/net.d',
        exemptNamespaces: ['istio-system', 'kube-system', 'infra'],
        awaySeconds: 15,
        answerSeconds: 30,
      },
    },
  });
  t.match(parse('pods: {kubernetes: true}, rootNamespace: m, cni: {enabled: true, exemptNamespaces: []}'), {
    value: { cni: { exemptNamespaces: [] } },
  });
  t.match(parse('pods: {directory: /p}, cni: {enabled: true, awaySeconds: 500, nonsense: 1}'), {
    error: [
      'cni.awaySeconds is 500, not a number from 0 to 200',
      /^cni.nonsense is no setting/,
      /^cni.enabled is true without pods.kubernetes/,
    ],
  });
});

t.test('on Kubernetes the node names itself, and what is the node’s own is known', async (t) => {
  const text = SMALL.replace('pods: { directory: /pods }', 'pods: { kubernetes: true }').replace('node: node-1\n', '');
  t.match(parseAgentConfig(text, 'node-9'), {
    ok: true,
    value: {
      node: 'node-9',
      revision: '',
      hostNetns: '/proc/1/ns/net',
      pods: { from: 'kubernetes', excludedNamespaces: ['kube-system'], resolvConf: '/etc/resolv.conf' },
    },
  });
  t.match(parseAgentConfig(text), { ok: false, error: ['node is missing, not a string'] });
  t.match(parseAgentConfig(SMALL, 'node-9'), { value: { node: 'node-1', hostNetns: '' } }, 'what is written wins');
  t.match(parseAgentConfig(`${SMALL}revision: default\n`), { value: { revision: '' } });
  t.match(parseAgentConfig(`${SMALL}revision: "a b"\n`), { error: [/revision is "a b", which is no name/] });
  t.match(
    parseAgentConfig(text.replace('kubernetes: true', 'kubernetes: true, directory: /p')),
    { ok: false },
    'not both',
  );
});
