//! Connections and the flow table: asked once, waiting, decided.
use crate::api::{Direction, OfferFacts};
use crate::conn::{Conn, Phase};
use crate::flow::{Flow, Lookup};
use crate::shared::{Pod, connection_id, lock, slot_of};
use crate::worker::Worker;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

impl Worker {
    /// A connection with its facts: from here on it has a number and will be reported.
    pub(crate) fn new_conn(&mut self, pod: &Arc<Pod>, facts: OfferFacts, src_port: u16) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        let id = connection_id(self.index, self.generation, self.conns.vacant());
        let conn = Conn::new(id, pod.clone(), facts, src_port, self.now_ms);
        pod.connections.fetch_add(1, Relaxed);
        self.shared.connections.fetch_add(1, Relaxed);
        self.shared.sockets.add(conn.reporter(), 1);
        self.conns.insert(conn)
    }

    /// Asks the flow table: registered there first, so that no change slips in between.
    pub(crate) fn judge(&mut self, slot: u32) {
        let Some(conn) = self.conns.get(slot) else { return };
        let lookup = lock(&self.shared.flows).lookup(&conn.facts, conn.id, self.now_ms);
        match lookup {
            Lookup::Hit(flow) => self.decided(slot, flow),
            Lookup::Asked => {
                self.await_phase(slot, Phase::Deciding, self.shared.options.decision_timeout_ms);
                self.shared.wake();
            }
            Lookup::Full => {
                self.parked.push_back(conn.id);
                let pod = conn.pod.clone();
                if conn.phase != Phase::Parked {
                    self.await_phase(slot, Phase::Parked, self.shared.options.decision_timeout_ms);
                }
                self.pause_pod(&pod, self.now_ms + self.shared.options.decision_timeout_ms);
            }
        }
    }

    pub(super) fn decided(&mut self, slot: u32, flow: Arc<Flow>) {
        let Some(conn) = self.conns.get_mut(slot) else { return };
        conn.phase = Phase::Dialing;
        conn.flow = Some(flow);
        match conn.facts.direction {
            Direction::Outbound => self.send_out(slot),
            Direction::Inbound | Direction::InboundPlaintext => self.deliver_to_app(slot),
        }
    }

    /// Asks again for connections that found the table full, as long as there is room.
    pub(super) fn unpark(&mut self) {
        for _ in 0..self.parked.len() {
            let Some(id) = self.parked.pop_front() else { return };
            let slot = slot_of(id);
            let Some(conn) = self.conns.get(slot).filter(|conn| conn.id == id && conn.phase == Phase::Parked) else {
                continue;
            };
            if lock(&self.shared.flows).has_room(&conn.pod.uid) {
                self.judge(slot);
            } else {
                self.parked.push_back(id);
            }
        }
    }
}
