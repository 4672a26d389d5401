/** A certificate authority of the tests, by the openssl command line: an implementation that is none of ours. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export interface IssuedCertificate {
  /** Paths of PEM files. */
  readonly cert: string;
  readonly key: string;
}

export interface CertificateWish {
  /** URI names, normally one SPIFFE id. */
  readonly uris: readonly string[];
  readonly dns?: readonly string[];
  readonly notBefore?: Date;
  readonly notAfter?: Date;
}

export class TestCa implements Disposable {
  /** Path of the root certificate, PEM. */
  readonly root: string;
  readonly #key: string;
  readonly #directory: string;
  #issued = 0;

  /** Signs with the given root (PEM texts), or with a new one of its own. */
  constructor(root?: { certificate: string; privateKey: string }) {
    this.#directory = mkdtempSync(join(tmpdir(), 'meltemi-ca-'));
    this.root = this.#path('root.pem');
    this.#key = this.#path('root.key');
    if (root !== undefined) {
      writeFileSync(this.root, root.certificate);
      writeFileSync(this.#key, root.privateKey, { mode: 0o600 });
    } else {
      makeKey(this.#key);
      const subject = ['-subj', '/O=a test root', '-days', '2', '-addext', 'keyUsage=critical,keyCertSign,cRLSign'];
      openssl('req', '-new', '-x509', '-key', this.#key, '-out', this.root, ...subject);
    }
    writeFileSync(this.#path('index.txt'), '');
    writeFileSync(this.#path('index.txt.attr'), 'unique_subject = no\n');
    writeFileSync(this.#path('crlnumber'), '01\n');
  }

  /** A leaf for client and server use, valid from an hour ago for a day unless told otherwise. */
  issue({ uris, dns = [], notBefore, notAfter }: CertificateWish): IssuedCertificate {
    const number = ++this.#issued;
    const [key, request, cert] = ['key', 'csr', 'pem'].map((end) => this.#path(`leaf-${number}.${end}`));
    if (key === undefined || request === undefined || cert === undefined) throw new Error('three names');
    makeKey(key);
    openssl('req', '-new', '-key', key, '-subj', '/O=a test leaf', '-out', request);
    const names = [...uris.map((uri) => `URI:${uri}`), ...dns.map((name) => `DNS:${name}`)].join(',');
    const dates = [
      '-startdate',
      asn1Time(notBefore ?? new Date(Date.now() - HOUR_MS)),
      '-enddate',
      asn1Time(notAfter ?? new Date(Date.now() + 24 * HOUR_MS)),
    ];
    openssl('ca', '-config', this.#config(names), '-in', request, '-out', cert, ...dates, ...BATCH);
    return { cert, key };
  }

  /** The path of a PEM revocation list that names `certificates`. */
  revocationList(certificates: readonly IssuedCertificate[]): string {
    const config = this.#config('URI:spiffe://none');
    for (const { cert } of certificates) openssl('ca', '-config', config, '-revoke', cert);
    const path = this.#path('crl.pem');
    openssl('ca', '-config', config, '-gencrl', '-crldays', '1', '-out', path);
    return path;
  }

  [Symbol.dispose](): void {
    rmSync(this.#directory, { recursive: true, force: true });
  }

  #path(name: string): string {
    return join(this.#directory, name);
  }

  #config(names: string): string {
    const path = this.#path('openssl.cnf');
    writeFileSync(
      path,
      `[ca]
default_ca = test
[test]
dir = ${this.#directory}
database = ${this.#path('index.txt')}
new_certs_dir = ${this.#directory}
crlnumber = ${this.#path('crlnumber')}
certificate = ${this.root}
private_key = ${this.#key}
rand_serial = yes
default_md = sha256
policy = any
x509_extensions = leaf
[any]
organizationName = optional
[leaf]
subjectAltName = critical,${names}
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = serverAuth,clientAuth
authorityKeyIdentifier = keyid
`,
    );
    return path;
  }
}

/** PEM text of an issued certificate and its key, and of the root. */
export function pemOf(certificate: IssuedCertificate): { cert: string; key: string } {
  return { cert: readFileSync(certificate.cert, 'utf8'), key: readFileSync(certificate.key, 'utf8') };
}

function makeKey(path: string): void {
  openssl('genpkey', '-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-256', '-out', path);
}

function asn1Time(date: Date): string {
  return `${date.toISOString().replaceAll(/[-:T]/g, '').slice(0, 14)}Z`;
}

function openssl(...args: string[]): void {
  execFileSync('openssl', args, { stdio: ['ignore', 'pipe', 'pipe'] });
}

const HOUR_MS = 3_600_000;
const BATCH = ['-batch', '-notext'];
