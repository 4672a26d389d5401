//! Work that takes a while, on a thread of its own, as a promise. Node's own pool has four threads, which files and
//! name look-ups need.
use napi::bindgen_prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A promise of what `work` returns. A panic rejects it.
pub fn promise<'env, T, W>(env: &'env Env, name: &str, work: W) -> Result<Object<'env>>
where
    T: ToNapiValue + Send + 'static,
    W: FnOnce() -> T + Send + 'static,
{
    let (deferred, promise) = env.create_deferred()?;
    let run = move || match catch_unwind(AssertUnwindSafe(work)) {
        Ok(value) => deferred.resolve(move |_| Ok(value)),
        Err(_) => deferred.reject(Error::from_reason("the engine panicked: this is a bug in Meltemi")),
    };
    std::thread::Builder::new()
        .name(name.into())
        .spawn(run)
        .map_err(|why| Error::from_reason(format!("cannot start the thread {name}: {why}")))?;
    Ok(promise)
}
