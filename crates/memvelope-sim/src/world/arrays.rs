//! Arrays: device memory without an address, in whole pages.

use crate::abi::{ArrayDescriptor, Code, Done};
use crate::books::Family;
use crate::world::{Tag, World};

/// A live array.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Array {
    device: usize,
    context: u64,
    bytes: u64,
    span: u64,
}

impl ArrayDescriptor {
    /// Bytes of its elements.
    fn bytes(&self) -> Option<u64> {
        // CU_AD_FORMAT_…: integers of 1, 2 and 4 bytes, unsigned and signed; half and single.
        let element = match self.format {
            0x01 | 0x08 => 1,
            0x02 | 0x09 | 0x10 => 2,
            0x03 | 0x0a | 0x20 => 4,
            _ => return None,
        };
        let channels = u64::from(self.channels);
        if !matches!(channels, 1 | 2 | 4) || self.width == 0 {
            return None;
        }
        let extent = [self.width, self.height.max(1), self.depth.max(1)];
        extent.into_iter().try_fold(element * channels, |bytes: u64, n| bytes.checked_mul(n as u64))
    }
}

impl World {
    pub(crate) fn create_array(&mut self, descriptor: &ArrayDescriptor) -> Done<u64> {
        let context = self.current()?;
        let device = self.context(context)?.device;
        let bytes = descriptor.bytes().ok_or(Code::INVALID_VALUE)?;
        let span = self.devices[device].pages(bytes).ok_or(Code::OUT_OF_MEMORY)?;
        self.take_physical(device, span)?;
        let handle = self.handle(Tag::Array);
        self.arrays.insert(handle, Array { device, context, bytes, span });
        self.count_requested(device, Family::Array, bytes);
        Ok(handle)
    }

    pub(crate) fn destroy_array(&mut self, handle: u64) -> Done {
        let array = self.arrays.remove(&handle).ok_or(Code::INVALID_HANDLE)?;
        self.give_physical(array.device, array.span);
        self.uncount_requested(array.device, Family::Array, array.bytes);
        Ok(())
    }

    pub(super) fn destroy_arrays_of(&mut self, context: u64) {
        let of_context = self.arrays.iter().filter(|(_, array)| array.context == context);
        let handles: Vec<u64> = of_context.map(|(handle, _)| *handle).collect();
        for handle in handles {
            let _ = self.destroy_array(handle);
        }
    }
}
