import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { must } from './topology.js';

/** A throw-away authority: ECDSA P-256, everything in files of one directory. */
export class Authority {
  readonly rootPath: string;

  private constructor(readonly directory: string) {
    this.rootPath = join(directory, 'root.pem');
  }

  /** One that `create` has made. */
  static open(directory: string): Authority {
    return new Authority(directory);
  }

  static async create(directory: string): Promise<Authority> {
    mkdirSync(directory, { recursive: true });
    const authority = new Authority(directory);
    const key = join(directory, 'root-key.pem');
    await authority.#makeKey(key);
    const subject = ['-subj', '/O=bench', '-addext', 'basicConstraints=critical,CA:TRUE'];
    const usage = ['-addext', 'keyUsage=critical,keyCertSign,cRLSign'];
    await must('openssl', [
      'req',
      '-x509',
      '-new',
      '-key',
      key,
      '-days',
      '2',
      '-out',
      authority.rootPath,
      ...subject,
      ...usage,
    ]);
    return authority;
  }

  /** `NAME.pem` and `NAME-key.pem` with one subject alternative name, for example `URI:spiffe://…` or `DNS:ca`. */
  async issue(name: string, subjectAlternativeName: string): Promise<{ certificate: string; key: string }> {
    const key = join(this.directory, `${name}-key.pem`);
    const request = join(this.directory, `${name}.csr`);
    await this.#makeKey(key);
    await must('openssl', ['req', '-new', '-key', key, '-subj', '/', '-out', request]);
    const certificate = join(this.directory, `${name}.pem`);
    writeFileSync(
      certificate,
      await this.#sign(readFileSync(request, 'utf8'), `subjectAltName=critical,${subjectAlternativeName}`),
    );
    return { certificate, key };
  }

  /** Signs what it is asked to, names included: this authority is for two processes of a bench. */
  async signRequest(request: string): Promise<string> {
    return this.#sign(request, undefined);
  }

  async #sign(request: string, extension: string | undefined): Promise<string> {
    const usage =
      'keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=critical,CA:FALSE';
    const extensions = join(this.directory, `ext-${process.pid}-${Math.random().toString(36).slice(2)}.cnf`);
    writeFileSync(extensions, `${usage}\n${extension ?? ''}\n`);
    const authority = ['-CA', this.rootPath, '-CAkey', join(this.directory, 'root-key.pem'), '-days', '1'];
    const copy = extension === undefined ? ['-copy_extensions', 'copy'] : [];
    return must('openssl', ['x509', '-req', ...authority, ...copy, '-extfile', extensions], { input: request });
  }

  async #makeKey(path: string): Promise<void> {
    await must('openssl', ['ecparam', '-name', 'prime256v1', '-genkey', '-noout', '-out', path]);
    await must('openssl', ['pkcs8', '-topk8', '-nocrypt', '-in', path, '-out', `${path}.p8`]);
    writeFileSync(path, readFileSync(`${path}.p8`));
  }
}
