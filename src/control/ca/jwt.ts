/** The claims of a JWT as it states them: nothing is verified. Undefined when it is no JWT. */
export function unverifiedClaims(token: string): Readonly<Record<string, unknown>> | undefined {
  const [header, payload, signature, ...more] = token.split('.');
  if (!header || !payload || !signature || more.length > 0) return undefined;
  return jsonObject(payload);
}

/** One part of a JWT. */
export function jsonObject(part: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(Buffer.from(part, 'base64url').toString('utf8'));
    return typeof value === 'object' && value !== null && !Array.isArray(value)
      ? (value as Record<string, unknown>)
      : undefined;
  } catch {
    return undefined;
  }
}
