import type { MessageInitShape } from '@bufbuild/protobuf';
import type { LocalitySchema } from '../../gen/istio/workload/workload_pb.js';
import type { Labels } from '../../model/kubernetes/metadata.js';

type Locality = MessageInitShape<typeof LocalitySchema>;

/** Where a node is, by its topology labels. Undefined when it does not say. */
export function nodeLocality(labels: Labels): Locality | undefined {
  return make(
    labels['topology.kubernetes.io/region'],
    labels['topology.kubernetes.io/zone'],
    labels['topology.istio.io/subzone'],
  );
}

/** A pod may claim another place than its node's: `istio-locality: region.zone.subzone`. */
export function podLocality(labels: Labels, ofNode: Locality | undefined): Locality | undefined {
  const claimed = labels['istio-locality'];
  return claimed === undefined ? ofNode : parseLocality(claimed.includes('/') ? claimed : claimed.replaceAll('.', '/'));
}

/** `region/zone/subzone`, each part optional from the right. */
export function parseLocality(text: string): Locality | undefined {
  return make(...text.split('/'));
}

function make(region = '', zone = '', subzone = ''): Locality | undefined {
  return region === '' && zone === '' && subzone === '' ? undefined : { region, zone, subzone };
}
