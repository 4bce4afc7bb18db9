//! Tags: what the allocating code says an allocation is for.

use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::OnceLock;
use std::task::{Context, Poll};

/// What an allocation is for, as far as the allocating code said so with [`tagged`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Tag {
    /// Nobody said.
    #[default]
    Untagged,
    /// Model weights.
    Weights,
    /// KV cache.
    KvCache,
    /// Activations and workspaces of the running step.
    Activations,
    /// Captured graphs.
    Graphs,
    /// Kept away from us on purpose, so that only a part of the device is used.
    Withheld,
}

impl Tag {
    /// How many tags there are.
    pub const COUNT: usize = 6;

    /// Every tag, in the order of its discriminants.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Untagged,
        Self::Weights,
        Self::KvCache,
        Self::Activations,
        Self::Graphs,
        Self::Withheld,
    ];

    /// As programs say it and JSON has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Untagged => "untagged",
            Self::Weights => "weights",
            Self::KvCache => "kv_cache",
            Self::Activations => "activations",
            Self::Graphs => "graphs",
            Self::Withheld => "withheld",
        }
    }
}

/// A name that is no tag's. Its text lists those that are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseTag {
    found: String,
}

impl fmt::Display for ParseTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Tag::ALL.map(Tag::name)[1..].join(", ");
        write!(f, "{:?} is no tag: expected one of {names} (kv is kv_cache)", self.found)
    }
}

impl std::error::Error for ParseTag {}

impl FromStr for Tag {
    type Err = ParseTag;

    /// Reads a [`Self::name`], or `kv`. `untagged` is none: a tag ends where its scope does.
    fn from_str(text: &str) -> Result<Self, ParseTag> {
        let text = if text == "kv" { Self::KvCache.name() } else { text };
        let known = Self::ALL.into_iter().find(|tag| tag.name() == text);
        known.filter(|tag| *tag != Self::Untagged).ok_or_else(|| ParseTag { found: text.into() })
    }
}

thread_local! {
    // const-initialised and without a destructor: reading it in a driver callback neither
    // allocates nor touches a lock, even while the thread is being torn down.
    static CURRENT_TAG: Cell<Tag> = const { Cell::new(Tag::Untagged) };
}

/// Set once: asks the other copies of memvelope in this process for the calling thread's tag.
static ELSEWHERE: OnceLock<fn() -> Tag> = OnceLock::new();

/// From now on a thread that has no tag here may have one in another copy. `ask` is called in
/// driver callbacks.
pub(crate) fn look_elsewhere(ask: fn() -> Tag) {
    // A second time it is the same function.
    let _ = ELSEWHERE.set(ask);
}

/// Driver allocations made by this thread until the guard drops carry `tag`. Nests.
///
/// The guard belongs to its thread. Across an `.await` it would also tag what other tasks allocate
/// on the thread meanwhile: there, use [`Tagged`].
///
/// ```
/// use memvelope::event::{Tag, current_tag, tagged};
/// let outer = tagged(Tag::Weights);
/// assert_eq!(current_tag(), Tag::Weights);
/// drop(outer);
/// assert_eq!(current_tag(), Tag::Untagged);
/// ```
#[must_use = "the tag ends when the guard drops"]
pub fn tagged(tag: Tag) -> TagGuard {
    TagGuard { before: replace_tag(tag), _not_send: PhantomData }
}

/// The tag in force on this thread, in this copy of memvelope or, if there is none, in another one
/// of the process.
#[must_use]
pub fn current_tag() -> Tag {
    match own_tag() {
        Tag::Untagged => ELSEWHERE.get().map_or(Tag::Untagged, |ask| ask()),
        tag => tag,
    }
}

/// The tag in force on this thread as this copy was told, whatever others of the process say.
#[must_use]
pub fn own_tag() -> Tag {
    CURRENT_TAG.with(Cell::get)
}

/// Puts `tag` in force on this thread until another one is; returns the former. For bindings whose
/// scopes do not end in the order in which they began; programs use [`tagged`].
pub fn replace_tag(tag: Tag) -> Tag {
    CURRENT_TAG.with(|cell| cell.replace(tag))
}

/// Restores the former tag when dropped. Belongs to its thread.
#[derive(Debug)]
pub struct TagGuard {
    before: Tag,
    _not_send: PhantomData<*const ()>,
}

impl Drop for TagGuard {
    fn drop(&mut self) {
        replace_tag(self.before);
    }
}

/// A future whose steps are tagged: the tag is in force while it is polled (or dropped), on whatever
/// thread that is, and at no other time. Tags nest in it as on a thread. Needs no runtime.
///
/// ```
/// use memvelope::event::{Tag, Tagged, current_tag};
/// let load = Tagged::new(Tag::Weights, async { current_tag() });
/// # let load = std::pin::pin!(load);
/// # let waker = std::task::Waker::noop();
/// # let mut context = std::task::Context::from_waker(waker);
/// # let seen = std::future::Future::poll(load, &mut context);
/// # assert_eq!(seen, std::task::Poll::Ready(Tag::Weights));
/// # assert_eq!(current_tag(), Tag::Untagged);
/// ```
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Tagged<F> {
    tag: Tag,
    /// Boxed, so that it can be pinned and dropped early without unsafe code; `None` once it is done.
    future: Option<Pin<Box<F>>>,
}

impl<F: Future> Tagged<F> {
    /// Tags what `future` allocates in its own steps. Tasks that it spawns are not its steps.
    pub fn new(tag: Tag, future: F) -> Self {
        Self { tag, future: Some(Box::pin(future)) }
    }
}

impl<F: Future> Future for Tagged<F> {
    type Output = F::Output;

    /// Once it is done, and is polled again against the contract of futures, it stays pending.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let _tag = tagged(this.tag);
        let Some(future) = &mut this.future else { return Poll::Pending };
        let outcome = future.as_mut().poll(context);
        if outcome.is_ready() {
            // Its locals end inside of its tag, too.
            this.future = None;
        }
        outcome
    }
}

impl<F> Drop for Tagged<F> {
    fn drop(&mut self) {
        let _tag = tagged(self.tag);
        self.future = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use std::task::Waker;

    #[test]
    fn tags_nest() {
        let outer = tagged(Tag::Weights);
        {
            let _inner = tagged(Tag::KvCache);
            assert_eq!(current_tag(), Tag::KvCache);
        }
        assert_eq!(current_tag(), Tag::Weights);
        drop(outer);
        assert_eq!(current_tag(), Tag::Untagged);
    }

    #[test]
    fn names_are_those_of_json_and_are_read_back() {
        for tag in Tag::ALL {
            assert_eq!(serde_json::to_value(tag).unwrap(), tag.name());
            let read = tag.name().parse::<Tag>();
            assert_eq!(read.is_ok_and(|read| read == tag), tag != Tag::Untagged, "{tag:?}");
        }
        assert_eq!("kv".parse(), Ok(Tag::KvCache));
        let error = "Weights".parse::<Tag>().unwrap_err().to_string();
        assert!(error.contains("\"Weights\"") && error.contains("weights, kv_cache"), "{error}");
    }

    /// Pending so many times before it is done; each poll and its end note the tag in force.
    struct Steps(u32, Arc<Mutex<Vec<Tag>>>);

    impl Future for Steps {
        type Output = ();
        fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            self.1.lock().unwrap().push(current_tag());
            self.0 -= 1;
            if self.0 == 0 { Poll::Ready(()) } else { Poll::Pending }
        }
    }

    impl Drop for Steps {
        fn drop(&mut self) {
            self.1.lock().unwrap().push(current_tag());
        }
    }

    fn step<F: Future>(future: &mut Pin<Box<F>>) -> Poll<F::Output> {
        future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn tasks_that_take_turns_keep_their_tags() {
        let seen = Arc::<Mutex<Vec<Tag>>>::default();
        let mut weights = Box::pin(Tagged::new(Tag::Weights, Steps(2, Arc::clone(&seen))));
        let mut cache = Box::pin(Tagged::new(Tag::KvCache, async {
            Tagged::new(Tag::Graphs, Steps(2, Arc::clone(&seen))).await;
            seen.lock().unwrap().push(current_tag());
        }));
        for _ in 0..2 {
            let _ = step(&mut weights);
            assert_eq!(current_tag(), Tag::Untagged);
            let _ = step(&mut cache);
            assert_eq!(current_tag(), Tag::Untagged);
        }
        assert!(step(&mut weights).is_pending(), "a done one stays as it is");
        drop((weights, cache));
        let expected =
            [Tag::Weights, Tag::Graphs, Tag::Weights, Tag::Weights, Tag::Graphs, Tag::Graphs];
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        assert_eq!((&seen[..6], seen[6]), (&expected[..], Tag::KvCache));
    }

    #[test]
    fn steps_on_several_threads_and_a_future_that_is_given_up() {
        let seen = Arc::<Mutex<Vec<Tag>>>::default();
        let mut moved = Box::pin(Tagged::new(Tag::Weights, Steps(9, Arc::clone(&seen))));
        let _ = step(&mut moved);
        let ended = std::thread::spawn(move || {
            let _ = step(&mut moved);
            drop(moved);
            current_tag()
        });
        assert_eq!(ended.join().unwrap(), Tag::Untagged);
        assert_eq!(*seen.lock().unwrap(), [Tag::Weights; 3]);
    }

    #[test]
    fn a_panic_leaves_the_tag_behind() {
        let future = Tagged::new(Tag::Graphs, async { panic!("on purpose") });
        let mut future: Pin<Box<Tagged<_>>> = Box::pin(future);
        let poll = std::panic::AssertUnwindSafe(|| step(&mut future));
        let outcome: std::thread::Result<Poll<()>> = std::panic::catch_unwind(poll);
        assert!(outcome.is_err() && current_tag() == Tag::Untagged);
    }
}
