/** What may stand where Istio wants a host: each function says what is wrong with a text, or undefined. */

/** A fully qualified name, of which the first label may be `*`, or start with `*` or `*-`. */
export function hostProblem(host: string): string | undefined {
  if (host === '*') return 'would be every host: name a domain, like *.example.com';
  return lengthProblem(host) ?? labelsProblem(host, WILDCARD_LABEL);
}

/** A name that can be resolved: no wildcard. */
export function fqdnProblem(host: string): string | undefined {
  return lengthProblem(host) ?? labelsProblem(host, LABEL);
}

/** As in names of ports and namespaces: letters, digits and dashes. */
export function isLabel(text: string): boolean {
  return text.length <= MAX_LABEL_LENGTH && LABEL.test(text);
}

/** `*-foo.example` and `*foo.example` are understood by resolution DYNAMIC_DNS only. */
export function isPartialWildcard(host: string): boolean {
  return host.startsWith('*') && !host.startsWith('*.');
}

function lengthProblem(host: string): string | undefined {
  if (host === '') return 'is empty';
  return host.length > MAX_LENGTH ? `has more than ${MAX_LENGTH} characters` : undefined;
}

function labelsProblem(host: string, first: RegExp): string | undefined {
  const labels = host.replace(/\.$/, '').split('.');
  if (/^\d+$/.test(labels.at(-1) ?? '')) return 'is no host name: an address goes under addresses or endpoints';
  const bad = labels.find((label, i) => label.length > MAX_LABEL_LENGTH || !(i === 0 ? first : LABEL).test(label));
  return bad === undefined ? undefined : `is no host name, because of "${bad.slice(0, MAX_LABEL_LENGTH + 1)}"`;
}

const MAX_LENGTH = 255;
const MAX_LABEL_LENGTH = 63;
const LABEL = /^[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?$/;
const WILDCARD_LABEL = /^(?:\*|(?:\*-?)?[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?)$/;
