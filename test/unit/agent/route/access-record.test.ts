import t from 'tap';
import {
  baggage,
  destinationLabels,
  destinationLog,
  joinFragments,
  logMembers,
  type RecordedWorkload,
  serviceLabels,
  sourceLabels,
  sourceLog,
} from '../../../../src/agent/route/access-record.js';
import { WorkloadType } from '../../../../src/gen/istio/workload/workload_pb.js';

const WEB: RecordedWorkload = {
  name: 'web-1',
  namespace: 'shop',
  workloadName: 'web',
  workloadType: WorkloadType.DEPLOYMENT,
  canonicalName: 'web',
  canonicalRevision: 'v2',
  clusterId: 'Kubernetes',
  locality: undefined,
};
const ID = 'spiffe://cluster.local/ns/shop/sa/web';

t.test('labels are those of Istio', async (t) => {
  t.equal(
    sourceLabels(WEB, ID),
    'source_workload="web",source_canonical_service="web",source_canonical_revision="v2",' +
      `source_workload_namespace="shop",source_principal="${ID}",source_app="web",source_version="v2",` +
      'source_cluster="Kubernetes"',
  );
  t.equal(
    serviceLabels({ hostname: 'web.shop.svc.cluster.local', namespace: 'shop', name: 'web' }),
    'destination_service="web.shop.svc.cluster.local",destination_service_namespace="shop",destination_service_name="web"',
  );
});

t.test('what is missing is unknown, but an identity still tells its namespace', async (t) => {
  t.match(destinationLabels(undefined, ''), 'destination_workload="unknown"');
  t.match(destinationLabels(undefined, ''), 'destination_principal="unknown"');
  t.match(sourceLabels(undefined, ID), 'source_workload_namespace="shop"');
});

t.test('values cannot break out of a label or of a line', async (t) => {
  const nasty = { ...WEB, name: 'a"b\\c\nd', workloadName: 'a"b\\c\nd' };
  t.match(sourceLabels(nasty, ID), 'source_workload="a\\"b\\\\c\\nd"');
  t.equal(JSON.parse(`{${sourceLog(nasty, ID)}}`)['src.workload'], 'a"b\\c\nd');
});

t.test('a log fragment leaves out what is not known', async (t) => {
  t.strictSame(JSON.parse(`{${destinationLog(WEB, ID)}}`), {
    'dst.workload': 'web-1',
    'dst.namespace': 'shop',
    'dst.identity': ID,
    'dst.cluster': 'Kubernetes',
  });
  t.equal(destinationLog(undefined, ''), '');
  t.equal(joinFragments('', logMembers({ a: 'b', c: '' }), ''), '"a":"b"');
});

t.test('baggage says who sends', async (t) => {
  t.equal(
    baggage({
      ...WEB,
      workloadType: WorkloadType.CRONJOB,
      locality: { region: 'eu', zone: 'eu 1', subzone: '' } as never,
    }),
    'k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.cronjob.name=web,service.name=web,service.version=v2,' +
      'cloud.region=eu,cloud.availability_zone=eu%201',
  );
});
