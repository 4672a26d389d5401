//! What each thread takes from the heap, as counted by the allocator. Whoever includes this makes it the global one:
//! `#[global_allocator] static HEAP: Counting = Counting;`. Memory of libraries in C is not seen.
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ops::Sub;
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicUsize, Ordering::Relaxed};

pub struct Counting;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls for new or larger memory, and the bytes they asked for.
    pub allocations: i64,
    pub bytes: i64,
    /// Bytes allocated and not freed by the same thread.
    pub held: i64,
}

/// Since the thread's start.
pub fn of_thread(thread: i32) -> Counts {
    let tally = TALLIES.iter().rfind(|tally| tally.thread.load(Relaxed) == thread);
    tally.map_or(Counts::default(), |tally| Counts {
        allocations: tally.allocations.load(Relaxed),
        bytes: tally.bytes.load(Relaxed),
        held: tally.held.load(Relaxed),
    })
}

impl Sub for Counts {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            allocations: self.allocations - earlier.allocations,
            bytes: self.bytes - earlier.bytes,
            held: self.held - earlier.held,
        }
    }
}

unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size(), 0);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size(), 0);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(1, size, layout.size());
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(0, 0, layout.size());
        unsafe { System.dealloc(at, layout) }
    }
}

fn count(allocations: i64, bytes: usize, freed: usize) {
    let Ok(tally) = TALLY.try_with(|tally| {
        let known = tally.get().unwrap_or_else(begin);
        tally.set(Some(known));
        known
    }) else {
        return;
    };
    tally.allocations.fetch_add(allocations, Relaxed);
    tally.bytes.fetch_add(bytes as i64, Relaxed);
    tally.held.fetch_add(bytes as i64 - freed as i64, Relaxed);
}

/// A tally for the calling thread; when there are too many threads, the last ones share one.
fn begin() -> &'static Tally {
    let tally = &TALLIES[THREADS.fetch_add(1, Relaxed).min(TALLIES.len() - 1)];
    tally.thread.store(unsafe { libc::gettid() }, Relaxed);
    tally
}

struct Tally {
    thread: AtomicI32,
    allocations: AtomicI64,
    bytes: AtomicI64,
    held: AtomicI64,
}

static TALLIES: [Tally; 4096] = [const {
    Tally {
        thread: AtomicI32::new(0),
        allocations: AtomicI64::new(0),
        bytes: AtomicI64::new(0),
        held: AtomicI64::new(0),
    }
}; 4096];
static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static TALLY: Cell<Option<&'static Tally>> = const { Cell::new(None) };
}
