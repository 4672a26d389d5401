/** What a `/metrics` page says of one name: the sum over all its series; undefined when it has none. */
export function metricOf(page: string, name: string): number | undefined {
  const values = page
    .split('\n')
    .filter((line) => line.startsWith(name) && /^[{ ]/.test(line.slice(name.length)))
    .map((line) => Number(line.slice(line.lastIndexOf(' ') + 1)));
  return values.length === 0 ? undefined : values.reduce((sum, value) => sum + value, 0);
}
