import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { needsApiServer, parseConfig, readConfig } from '../../../src/control/config.js';

const minimal = 'source: { directory: /m }\nca: { directory: /ca }\n';

t.test('has a default for everything but the directories', async (t) => {
  t.same(parseConfig(minimal), {
    ok: true,
    value: {
      source: { directory: '/m' },
      kubernetes: {},
      mesh: {
        cluster: 'Kubernetes',
        network: '',
        trustDomain: 'cluster.local',
        clusterDomain: 'cluster.local',
        rootNamespace: 'istio-system',
      },
      listen: { tls: { ip: '0.0.0.0', port: 15012 }, plaintext: undefined },
      admin: { socket: undefined, port: 15014 },
      ca: { directory: '/ca', cacerts: undefined, workloadTtlSeconds: 86_400 },
      revision: '',
      leaderElection: true,
      auth: { issuers: [], tokenReview: undefined },
      webhook: { port: 0, failurePolicy: 'Fail' },
      logLevel: 'info',
    },
  });
});

t.test('reads every setting', async (t) => {
  const parsed = parseConfig(`
source: { directory: /m }
cluster: c1
network: n1
trustDomain: td
clusterDomain: cd
rootNamespace: root
listen: { tls: "[::1]:0", plaintext: "127.0.0.1:15010" }
admin: { socket: /run/a.sock, port: 0 }
ca: { directory: /ca, cacerts: /etc/cacerts, workloadTtlSeconds: 60 }
auth: { issuers: [{ issuer: lab, publicKey: /k.pem }, { issuer: other, audience: me, publicKey: /l.pem }] }
logLevel: debug
`);
  t.match(parsed, {
    ok: true,
    value: {
      mesh: { cluster: 'c1', network: 'n1', trustDomain: 'td', clusterDomain: 'cd', rootNamespace: 'root' },
      listen: { tls: { ip: '::1', port: 0 }, plaintext: { ip: '127.0.0.1', port: 15010 } },
      admin: { socket: '/run/a.sock', port: 0 },
      ca: { cacerts: '/etc/cacerts', workloadTtlSeconds: 60 },
      auth: {
        issuers: [
          { issuer: 'lab', audience: 'istio-ca', publicKey: '/k.pem' },
          { issuer: 'other', audience: 'me', publicKey: '/l.pem' },
        ],
      },
      logLevel: 'debug',
    },
  });
});

t.test('the source is a directory or the API server, not both', async (t) => {
  const ca = 'ca: { directory: /ca }\n';
  t.match(parseConfig(`source: { kubernetes: true }\n${ca}`), { ok: true, value: { source: { kubernetes: true } } });
  t.match(parseConfig(`source: { kubernetes: true, directory: /m }\n${ca}`), { ok: false, error: [/both/] });
  t.match(parseConfig(`source: { kubernetes: false }\n${ca}`), { ok: false, error: [/directory is missing/] });
  t.match(
    parseConfig(`source: { kubernetes: true }\nkubernetes: { server: "https://a:1", token: /t, ca: /c }\n${ca}`),
    { ok: true, value: { kubernetes: { server: 'https://a:1', token: '/t', ca: '/c' } } },
  );
  t.match(parseConfig(`source: { kubernetes: true }\nkubernetes: { server: "a b" }\n${ca}`), {
    ok: false,
    error: [/kubernetes\.server is "a b", no URL/],
  });
});

t.test('in a cluster the CA is in Secrets and tokens are judged by the API server', async (t) => {
  const parsed = parseConfig(`
source: { kubernetes: true }
ca: { secret: true }
auth: { tokenReview: {} }
revision: canary-1
leaderElection: false
`);
  t.match(parsed, {
    ok: true,
    value: {
      ca: { secret: true, workloadTtlSeconds: 86_400 },
      auth: { issuers: [], tokenReview: { audience: 'istio-ca' } },
      revision: 'canary-1',
      leaderElection: false,
    },
  });
  t.ok(parsed.ok && needsApiServer(parsed.value));
  for (const [text, problem] of [
    ['ca: { secret: true, directory: /ca }', 'ca has both a directory and secret: true'],
    ['ca: { secret: true, cacerts: /x }', 'ca.cacerts is a folder'],
    ['ca: { secret: false }', 'ca.directory is missing (or say secret: true)'],
    ['ca: { secret: true }\nrevision: "A b"', 'revision is "A b"'],
    ['ca: { secret: true }\nauth: { tokenReview: { issuer: x } }', 'auth.tokenReview.issuer is no setting'],
  ] as const) {
    const bad = parseConfig(`source: { kubernetes: true }\n${text}\n`);
    t.ok(!bad.ok && bad.error.some((each) => each.startsWith(problem)), `${text}: ${JSON.stringify(bad)}`);
  }
});

t.test('names all mistakes at once, unknown settings too', async (t) => {
  const parsed = parseConfig(`
source: { folder: /m }
listen: { tls: "somewhere" }
ca: { directory: 1, workloadTtlSeconds: 0 }
auth: { issuers: [{ issuer: x }] }
logLevel: loud
`);
  t.equal(parsed.ok, false);
  const problems = parsed.ok ? '' : parsed.error.join('\n');
  for (const part of [
    'source.directory is missing (or say kubernetes: true)',
    'source.folder is no setting',
    'listen.tls is "somewhere"',
    'ca.directory is 1',
    'ca.workloadTtlSeconds is 0',
    'auth.issuers[0].publicKey is missing',
    'logLevel is "loud"',
  ]) {
    t.ok(problems.includes(part), `${part} in ${problems}`);
  }
});

t.test('names the file in what is wrong with it', async (t) => {
  const directory = t.testdir({});
  t.match(readConfig(join(directory, 'none.yaml')), { ok: false, error: /none\.yaml cannot be read: .*ENOENT/ });
  writeFileSync(join(directory, 'bad.yaml'), 'a: [');
  t.match(readConfig(join(directory, 'bad.yaml')), { ok: false, error: /bad\.yaml:\n {2}line 1, column 5/ });
  writeFileSync(join(directory, 'list.yaml'), '[]');
  t.match(readConfig(join(directory, 'list.yaml')), { ok: false, error: /the file is no object/ });
  writeFileSync(join(directory, 'good.yaml'), minimal);
  t.ok(readConfig(join(directory, 'good.yaml')).ok);
});
