import t from 'tap';
import { checkValues, mergeSet, mergeValues, parseSet, parseValues } from '../../../../src/cli/chart/values.js';

t.test('--set is read as Helm reads it', async (t) => {
  t.same(parseSet('a.b=1,c=yes'), { a: { b: 1 }, c: 'yes' });
  t.same(parseSet('a=true,b=null,c=007,d='), { a: true, b: null, c: '007', d: '' });
  t.same(parseSet('a={x,y},b={}'), { a: ['x', 'y'], b: [] });
  t.same(parseSet('labels.kubernetes\\.io/os=linux'), { labels: { 'kubernetes.io/os': 'linux' } });
  t.same(parseSet('a=x\\,y'), { a: 'x,y' });
});

t.test('--set that cannot be read says what to write', async (t) => {
  t.throws(() => parseSet('replicas'), /--set replicas: it is written NAME=VALUE/);
  t.throws(() => parseSet('list[0]=x'), /use --values FILE/);
});

t.test('later values win, objects are merged, null takes a default away', async (t) => {
  const under = { image: { tag: '1', repository: 'meltemi' }, list: [1, 2], gone: { a: 1 } };
  const over = mergeSet({ image: { tag: '2' } }, { gone: null, list: [3] });
  t.same(mergeValues(under, over), { image: { tag: '2', repository: 'meltemi' }, list: [3] });
});

t.test('every mistake has its line', async (t) => {
  const schema = {
    type: 'object',
    additionalProperties: false,
    properties: { a: { type: 'object', properties: { n: { type: 'integer' } } }, level: { enum: ['x', 'y'] } },
  };
  t.throws(
    () => checkValues(schema, { a: { n: 'one' }, level: 'z', more: 1 }),
    /the values must NOT have additional properties: more[\s\S]*a\.n must be integer[\s\S]*level must be equal to one of the allowed values: x, y/,
  );
  t.doesNotThrow(() => checkValues(schema, { a: { n: 1 } }));
});

t.test('a values file holds one object or nothing', async (t) => {
  t.same(parseValues('v.yaml', 'a: {b: 1}'), { a: { b: 1 } });
  t.same(parseValues('v.yaml', ''), {});
  t.throws(() => parseValues('v.yaml', '- a'), /v.yaml: it holds no object/);
  t.throws(() => parseValues('v.yaml', 'a: ['), /v.yaml: line/);
});
