/** An account in the words of tokens: `system:serviceaccount:<namespace>:<name>`. Undefined when it is none. */
export function parseServiceAccount(
  subject: string,
): { readonly namespace: string; readonly serviceAccount: string } | undefined {
  const [, namespace, serviceAccount] = SUBJECT.exec(subject) ?? [];
  return namespace === undefined || serviceAccount === undefined ? undefined : { namespace, serviceAccount };
}

export function isNodeName(text: string): boolean {
  return NODE.test(text);
}

const LABEL = '[a-z0-9](?:[a-z0-9-]*[a-z0-9])?';
const SUBJECT = new RegExp(`^system:serviceaccount:(${LABEL}):(${LABEL}(?:\\.${LABEL})*)$`);
const NODE = new RegExp(`^${LABEL}(?:\\.${LABEL})*$`);
