//! `Dataplane` of dataplane.ts, method by method.
use crate::background::promise;
use crate::input::{
    EngineCertificate, EngineGroup, EnginePod, EngineRead, EngineSettings, EngineTrustAnchor, EngineVerdict, bytes,
    unsigned,
};
use crate::output::{
    EngineConnection, EngineHandoverResult, EngineKey, EngineNotice, EngineOfferResult, EnginePodResult, EngineResult,
    EngineSizes, EngineWork,
};
use meltemi_core::engine;
use napi::bindgen_prelude::*;
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi_derive::napi;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

#[napi]
pub struct Engine {
    engine: Arc<engine::Engine>,
    waker: Arc<Mutex<Option<Waker>>>,
    /// What was wrong with values from JavaScript; goes up with the next work.
    wrong: Mutex<Vec<EngineNotice>>,
}

/// Weak: it does not keep the event loop alive.
type Waker = ThreadsafeFunction<(), (), (), Status, false, true>;

#[napi]
impl Engine {
    #[napi(constructor, catch_unwind)]
    pub fn new(settings: EngineSettings) -> Result<Self> {
        let waker = Arc::<Mutex<Option<Waker>>>::default();
        let wake = {
            let waker = waker.clone();
            move || {
                if let Some(waker) = &*waker.lock().unwrap_or_else(PoisonError::into_inner) {
                    waker.call((), ThreadsafeFunctionCallMode::NonBlocking);
                }
            }
        };
        let engine = engine::Engine::new(settings.into(), Box::new(wake)).map_err(Error::from_reason)?;
        Ok(Self { engine: Arc::new(engine), waker, wrong: Mutex::default() })
    }

    #[napi(ts_return_type = "Promise<EnginePodResult>", catch_unwind)]
    pub fn add_pod<'env>(&self, env: &'env Env, pod: EnginePod) -> Result<Object<'env>> {
        let engine = self.engine.clone();
        promise(env, "add-pod", move || EnginePodResult::from(pod.parse().and_then(|pod| engine.add_pod(&pod))))
    }

    #[napi(catch_unwind)]
    pub fn remove_pod(&self, uid: String, why: String) {
        self.engine.remove_pod(&uid, &why);
    }

    #[napi(catch_unwind)]
    pub fn on_work(&self, callback: Function<(), ()>) -> Result<()> {
        let waker = callback.build_threadsafe_function().weak::<true>().build()?;
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker);
        Ok(())
    }

    #[napi(catch_unwind)]
    pub fn take(&self, max_offers: Option<u32>) -> EngineWork {
        let mut work = EngineWork::from(self.engine.take(max_offers.map_or(MAX_OFFERS, |max| max as usize)));
        work.notices.append(&mut *self.wrong.lock().unwrap_or_else(PoisonError::into_inner));
        work
    }

    #[napi(catch_unwind)]
    pub fn answer(&self, verdicts: Vec<EngineVerdict>) {
        let mut answers = Vec::with_capacity(verdicts.len());
        for verdict in verdicts {
            match verdict.parse() {
                Ok(answer) => answers.push(answer),
                Err(why) => self.complain("bad-verdict", [why]),
            }
        }
        self.engine.answer(answers);
    }

    #[napi(catch_unwind)]
    pub fn put_groups(&self, groups: Vec<EngineGroup>) {
        let mut parsed = Vec::with_capacity(groups.len());
        for group in groups {
            let (group, wrong) = group.parse();
            parsed.push(group);
            self.complain("bad-endpoint", wrong);
        }
        self.engine.put_groups(parsed);
    }

    #[napi(catch_unwind)]
    pub fn remove_groups(&self, ids: Vec<String>) {
        self.engine.remove_groups(&ids);
    }

    #[napi(catch_unwind)]
    pub fn invalidate(&self, version: i64, reads: Vec<EngineRead>) {
        let mut parsed = Vec::with_capacity(reads.len());
        for read in reads {
            match read.changed() {
                Ok(read) => parsed.push(read),
                Err(why) => self.complain("bad-read", [why]),
            }
        }
        self.engine.invalidate(unsigned(version), &parsed);
    }

    #[napi(catch_unwind)]
    pub fn create_key(&self) -> Result<EngineKey> {
        self.engine.create_key().map(EngineKey::from).map_err(Error::from_reason)
    }

    #[napi(ts_return_type = "Uint8Array | undefined", catch_unwind)]
    pub fn sign(&self, key_id: i64, bytes: Uint8Array) -> Either<Uint8Array, ()> {
        let signature = self.engine.sign(key_id.cast_unsigned(), &bytes);
        signature.map_or(Either::B(()), |signature| Either::A(Uint8Array::new(signature)))
    }

    #[napi(catch_unwind)]
    pub fn install_certificate(&self, certificate: EngineCertificate) -> EngineResult {
        self.engine.install_certificate(certificate.into()).into()
    }

    #[napi(catch_unwind)]
    pub fn remove_certificate(&self, identity: String) {
        self.engine.remove_certificate(&identity);
    }

    #[napi(catch_unwind)]
    pub fn set_trust(&self, anchors: Vec<EngineTrustAnchor>) -> EngineResult {
        let anchors: Vec<_> = anchors.into_iter().map(Into::into).collect();
        self.engine.set_trust(&anchors).into()
    }

    #[napi(catch_unwind)]
    pub fn set_revocations(&self, crls: Vec<Uint8Array>) -> EngineResult {
        self.engine.set_revocations(&bytes(crls)).into()
    }

    #[napi(catch_unwind)]
    pub fn metrics(&self) -> String {
        self.engine.metrics()
    }

    #[napi(catch_unwind)]
    pub fn connections(&self, limit: u32) -> Vec<EngineConnection> {
        self.engine.connections(limit as usize).into_iter().map(EngineConnection::from).collect()
    }

    #[napi(catch_unwind)]
    pub fn stats(&self) -> EngineSizes {
        self.engine.stats().into()
    }

    #[napi(ts_return_type = "Promise<EngineOfferResult>", catch_unwind)]
    pub fn offer_handover<'env>(&self, env: &'env Env, path: String, generation: i64) -> Result<Object<'env>> {
        let engine = self.engine.clone();
        promise(env, "handover", move || {
            let taken = engine.offer_handover(Path::new(&path), unsigned(generation));
            let error = || format!("the engine was closed before a successor came to {path}");
            EngineOfferResult::from(taken.and_then(|taken| taken.ok_or_else(error)))
        })
    }

    #[napi(ts_return_type = "Promise<boolean>", catch_unwind)]
    pub fn successor_gone<'env>(&self, env: &'env Env) -> Result<Object<'env>> {
        let engine = self.engine.clone();
        promise(env, "successor", move || engine.successor_gone())
    }

    #[napi(catch_unwind)]
    pub fn resume_accepting(&self) {
        self.engine.resume_accepting();
    }

    #[napi(catch_unwind)]
    pub fn is_offered(&self, path: String) -> bool {
        engine::Engine::is_offered(Path::new(&path))
    }

    #[napi(ts_return_type = "Promise<EngineHandoverResult>", catch_unwind)]
    pub fn take_handover<'env>(&self, env: &'env Env, path: String, generation: i64) -> Result<Object<'env>> {
        let engine = self.engine.clone();
        promise(env, "handover", move || {
            EngineHandoverResult::from(engine.take_handover(Path::new(&path), unsigned(generation)))
        })
    }

    #[napi(ts_return_type = "Promise<EngineResult>", catch_unwind)]
    pub fn complete_handover<'env>(&self, env: &'env Env) -> Result<Object<'env>> {
        let engine = self.engine.clone();
        promise(env, "handover", move || EngineResult::from(engine.complete_handover()))
    }

    #[napi(catch_unwind)]
    pub fn forget_inherited(&self) {
        self.engine.forget_inherited();
    }

    #[napi(ts_return_type = "Promise<number>", catch_unwind)]
    pub fn drain<'env>(&self, env: &'env Env, deadline_ms: u32) -> Result<Object<'env>> {
        let engine = self.engine.clone();
        promise(env, "drain", move || engine.drain(Duration::from_millis(deadline_ms.into())) as u32)
    }

    #[napi(catch_unwind)]
    pub fn close(&self) {
        self.engine.close();
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn complain(&self, code: &str, wrong: impl IntoIterator<Item = String>) {
        let mut list = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        for message in wrong {
            if list.len() < MAX_COMPLAINTS {
                list.push(EngineNotice { level: "error", code: code.into(), message });
            }
        }
    }
}

const MAX_OFFERS: usize = 256;
const MAX_COMPLAINTS: usize = 64;
