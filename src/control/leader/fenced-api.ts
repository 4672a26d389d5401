import { ApiError, type KubeApi } from '../../kube/api.js';
import type { Leader } from './leader.js';

/**
 * The API as a leader may use it: what writes is refused with `ApiError` (status 0) the moment it does not lead, even
 * if the process was held up and nobody has told its tasks yet.
 */
export function whileLeading(api: KubeApi, leader: Pick<Leader, 'isLeader'>): KubeApi {
  const fenced =
    <A extends unknown[], R>(name: string, write: (...parameters: A) => Promise<R>) =>
    async (...parameters: A): Promise<R> => {
      if (!leader.isLeader) throw new ApiError(0, 'NotLeader', `${name} was not sent: this process no longer leads`);
      return write(...parameters);
    };
  return {
    get: (...parameters) => api.get(...parameters),
    list: (...parameters) => api.list(...parameters),
    listAll: (...parameters) => api.listAll(...parameters),
    watch: (...parameters) => api.watch(...parameters),
    create: fenced('create', (...parameters) => api.create(...parameters)),
    replace: fenced('replace', (...parameters) => api.replace(...parameters)),
    apply: fenced('apply', (...parameters) => api.apply(...parameters)),
    patch: fenced('patch', (...parameters) => api.patch(...parameters)),
    delete: fenced('delete', (...parameters) => api.delete(...parameters)),
    request: (method, ...parameters) =>
      method === 'GET'
        ? api.request(method, ...parameters)
        : fenced('request', () => api.request(method, ...parameters))(),
    close: () => {},
  };
}
