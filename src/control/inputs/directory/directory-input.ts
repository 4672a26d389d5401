import type { Graph } from '../../../collections/graph.js';
import { applyChanges, type InputContext, type Inputs } from '../inputs.js';
import { type DirectoryOptions, DirectorySource } from './directory-source.js';

/** Feeds the inputs from a directory, says in the log what is wrong with it, and counts. */
export function directoryInput(
  directory: string,
  graph: Graph,
  inputs: Inputs,
  { clock, log, metrics }: InputContext,
  options: Partial<DirectoryOptions> = {},
): DirectorySource {
  const transactions = metrics.counter('meltemi_source_transactions_total', 'Changes of the source that took effect.');
  const rejected = metrics.counter('meltemi_source_rejected_total', 'Versions of files that were no good.');
  const troubles = metrics.counter('meltemi_source_troubles_total', 'Times the source could not be read or watched.');
  const source = new DirectorySource(
    directory,
    {
      apply(changes) {
        const before = graph.version;
        graph.transact(() => applyChanges(inputs, changes));
        if (graph.version === before) return;
        transactions.inc();
        log.info({ objects: changes.length, version: graph.version }, 'source changed');
      },
      rejected(file) {
        rejected.inc();
        const consequence =
          file.kept > 0
            ? 'its last good version stays in force'
            : file.closed > 0
              ? 'whatever its policies select is held to the strictest they may have meant'
              : 'nothing of it is in force';
        const { path, problems, kept, closed } = file;
        log.error({ file: path, problems, kept, closed }, `a file is no good: ${consequence}`);
      },
      trouble(path, problem) {
        troubles.inc();
        log.error({ path }, `${path} ${problem}`);
      },
    },
    clock,
    options,
  );
  metrics.gauge('meltemi_source_files', 'Files of the source.', [], () => source.counts().files);
  metrics.gauge('meltemi_source_objects', 'Objects in force.', [], () => source.counts().objects);
  metrics.gauge('meltemi_source_bad_files', 'Files that are no good now.', [], () => source.counts().badFiles);
  metrics.gauge('meltemi_source_closed_policies', 'Policies that are no good and deny in full.', [], () => {
    return source.counts().closedPolicies;
  });
  return source;
}
