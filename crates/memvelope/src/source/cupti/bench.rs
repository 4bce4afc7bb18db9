//! The door of `benches/record.rs` to decoder and callbacks. Behind the feature `bench-internals`;
//! nothing here is stable.

#![expect(unsafe_code, reason = "callbacks are called as CUPTI calls them")]

use super::callbacks::on_callback;
use super::contexts::Known;
use super::decode::{Decoder, MemoryRecords, Outside, Step};
use super::known_names::KnownNames;
use super::state::STATE;
use crate::event::{DeviceIndex, Event, Names, Sink};
use crate::source::driver::Driver;
use crate::units::Nanos;
use cupti_sys::layout::callback_data;
use cupti_sys::{callback_site, cbid, domain};

/// The decoder as the drain thread has it, with names read from where the records say.
#[derive(Debug)]
pub struct Decoding<'a> {
    decoder: Decoder,
    known: KnownNames,
    names: &'a Names,
}

impl<'a> Decoding<'a> {
    /// Of a recording that began at the beginning of time.
    #[must_use]
    pub fn new(names: &'a Names) -> Self {
        let decoder = Decoder::new(MemoryRecords::CrossCheck, Nanos::ZERO);
        Self { decoder, known: KnownNames::new(), names }
    }

    /// Decodes a buffer in which a record begins every `stride` bytes; how many there were. The
    /// stepping is ours and not CUPTI's.
    pub fn run(&mut self, buffer: &[u8], stride: usize, on_event: &mut dyn FnMut(&Event)) -> u64 {
        let Self { decoder, known, names } = self;
        known.begin();
        let mut outside = Outside {
            name_at: &mut |address| known.id(names, address),
            next_token: &|| STATE.next_token(),
            on_event,
        };
        let step = |last: Option<usize>| match last.map_or(0, |last| last + stride) {
            at if at < buffer.len() => Step::Record(at),
            _ => Step::End,
        };
        decoder.decode(buffer, step, &mut outside).records
    }
}

/// Calls that CUPTI would tell of, on one context of device 0.
#[derive(Debug)]
pub struct Callbacks(());

const CONTEXT: usize = 0xC0;
const CONTEXT_UID: u32 = 1;

impl Callbacks {
    /// From now on callbacks go to `sink`.
    #[must_use]
    pub fn connect(sink: &'static dyn Sink) -> Self {
        STATE.connect(sink, Driver::without_functions());
        STATE.contexts.learn(CONTEXT, Known { uid: CONTEXT_UID, device: DeviceIndex(0) });
        Self(())
    }

    /// `cuMemAlloc` that succeeded: two callbacks.
    pub fn allocate(&self, address: u64, bytes: u64) {
        fire(cbid::MEM_ALLOC_V2, &[(&raw const address) as u64, bytes]);
    }

    /// `cuMemFree` that succeeded: two callbacks.
    pub fn free(&self, address: u64) {
        fire(cbid::MEM_FREE_V2, &[address]);
    }
}

impl Drop for Callbacks {
    fn drop(&mut self) {
        STATE.disconnect();
    }
}

fn fire(id: u32, arguments: &[u64]) {
    let (success, mut shared) = (0_u32, 0_u64);
    let mut data = [0_u8; callback_data::SIZE];
    for site in [callback_site::ENTER, callback_site::EXIT] {
        let mut put = |at: usize, bytes: &[u8]| data[at..at + bytes.len()].copy_from_slice(bytes);
        let is_exit = site == callback_site::EXIT;
        let result = if is_exit { &raw const success } else { std::ptr::null() };
        put(callback_data::SITE, &site.to_ne_bytes());
        put(callback_data::FUNCTION_PARAMS, &(arguments.as_ptr() as usize).to_ne_bytes());
        put(callback_data::FUNCTION_RETURN_VALUE, &(result as usize).to_ne_bytes());
        put(callback_data::CONTEXT, &CONTEXT.to_ne_bytes());
        put(callback_data::CONTEXT_UID, &CONTEXT_UID.to_ne_bytes());
        put(callback_data::CORRELATION_DATA, &((&raw mut shared) as usize).to_ne_bytes());
        // SAFETY: the block is laid out as CUPTI's and lives for the call, as do the arguments,
        // the result and the eight bytes kept between the two sites.
        unsafe {
            on_callback(std::ptr::null_mut(), domain::DRIVER_API, id, data.as_ptr().cast());
        }
    }
}
