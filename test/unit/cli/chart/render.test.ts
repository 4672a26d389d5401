import t from 'tap';
import { Templates } from '../../../../src/cli/chart/render.js';

const root = {
  Values: { name: 'web', empty: '', list: ['a', 'b'], none: [], nested: { on: true, count: 3 }, zero: 0 },
  Release: { Name: 'meltemi', Namespace: 'istio-system' },
  Chart: { Name: 'meltemi', Version: '1.0.0', AppVersion: '1.0.1' },
};

function render(text: string, more: Readonly<Record<string, string>> = {}): string {
  return new Templates(new Map(Object.entries({ ...more, 'page.yaml': text }))).render('page.yaml', root);
}

t.test('values stand where they are named', async (t) => {
  t.equal(render('a {{ .Values.name }} in {{ $.Release.Namespace }}'), 'a web in istio-system');
  t.equal(render('{{ .Values.nested.on }} {{ .Values.nested.count }}'), 'true 3');
});

t.test('white space goes where a dash says so, and stays elsewhere', async (t) => {
  t.equal(render('a\n{{- if true }}\nb\n{{- end }}\nc'), 'a\nb\nc');
  t.equal(render('a {{ "x" -}}   b'), 'a xb');
  t.equal(render('a\n{{- /* what for */ -}}\nb'), 'ab');
});

t.test('conditions take what Go takes for true', async (t) => {
  const chosen = (of: string) => render(`{{ if ${of} }}yes{{ else }}no{{ end }}`);
  t.equal(chosen('.Values.name'), 'yes');
  t.equal(chosen('.Values.nested'), 'yes');
  for (const no of ['.Values.empty', '.Values.none', '.Values.zero', 'false', 'not .Values.name']) {
    t.equal(chosen(no), 'no', no);
  }
  t.equal(render('{{ if .Values.empty }}a{{ else if .Values.name }}b{{ else }}c{{ end }}'), 'b');
  t.equal(render('{{ if eq .Values.name "web" "db" }}a{{ end }}{{ if ne .Values.name "db" }}b{{ end }}'), 'ab');
});

t.test('and, or give the operand that decides', async (t) => {
  t.equal(render('{{ or .Values.empty .Values.name "x" }}'), 'web');
  t.equal(render('{{ and .Values.name .Values.zero .Values.nowhere }}'), '0');
});

t.test('range and with move the dot, and the dollar stays', async (t) => {
  t.equal(render('{{ range .Values.list }}{{ . }}{{ $.Values.name }} {{ end }}'), 'aweb bweb ');
  t.equal(render('{{ range .Values.none }}x{{ else }}nothing{{ end }}'), 'nothing');
  t.equal(render('{{ with .Values.nested }}{{ .count }}{{ end }}{{ with .Values.empty }}x{{ end }}'), '3');
});

t.test('what one file defines another includes', async (t) => {
  const names = { '_names.tpl': '{{ define "full" }}{{ .Values.name }}-{{ .Chart.Version }}{{ end }}' };
  t.equal(render('{{ include "full" . | quote }}', names), '"web-1.0.0"');
  t.throws(() => render('{{ include "other" . }}', names), /page.yaml: nothing defines "other"/);
});

t.test('pipelines hand on their last argument', async (t) => {
  t.equal(render('{{ .Values.empty | default (.Values.name | quote) }}'), '"web"');
  t.equal(render('{{ toYaml .Values.list | nindent 2 }}'), '\n  - a\n  - b');
  t.equal(render('{{ add .Values.nested.count 4 }} {{ int "12" }}'), '7 12');
});

t.test('what is not understood is an error with its file and line, never left out', async (t) => {
  t.throws(() => render('a\n{{ $x := 1 }}'), /page.yaml: line 2: .*":="/);
  t.throws(() => render('{{ .Values.nowhere }}'), /page.yaml: there is no .Values.nowhere/);
  t.throws(() => render('{{ lookup "v1" "Pod" }}'), /the function lookup is not one that meltemi knows/);
  t.throws(() => render('{{ if true }}'), /line 1: a block is not closed/);
  t.throws(() => render('{{ end }}'), /"end" has no block/);
  t.throws(() => render('{{ .Values.list }}'), /printed with toYaml only/);
  t.throws(() => render('{{ .Values.name | }}'), /cannot be read from "its end" on/);
  t.throws(() => render('{{ (.Values.name }}'), /cannot be read/);
});
