//! Addresses of memory that another process allocated: legacy IPC, and pointers of imported pools.
//! The bytes are charged to the exporter. Opening what is open already gives the same address,
//! which counts its openings.

use crate::abi::{Code, Done};
use crate::books::Family;
use crate::world::World;
use crate::world::memory::Alloc;

/// What travels from process to process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) process: u32,
    /// The exporter's pool; 0 for legacy IPC.
    pub(crate) pool: u64,
    /// The allocation's number there.
    pub(crate) buffer: u64,
    pub(crate) bytes: u64,
    pub(crate) uuid: [u8; 16],
}

/// First bytes of an origin: anything else is no handle.
const MAGIC: u64 = u64::from_le_bytes(*b"memorign");

impl Origin {
    /// In the 64 bytes that CUDA has for it.
    pub(crate) fn to_bytes(self) -> [u8; 64] {
        let words = [MAGIC, self.process.into(), self.pool, self.buffer, self.bytes];
        let mut bytes = [0; 64];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes[40..56].copy_from_slice(&self.uuid);
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8; 64]) -> Done<Self> {
        let mut words = [0; 5];
        for (word, from) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(from.try_into().map_err(|_| Code::INVALID_VALUE)?);
        }
        let [magic, process, pool, buffer, size] = words;
        let process = u32::try_from(process).ok().filter(|_| magic == MAGIC);
        let process = process.ok_or(Code::INVALID_VALUE)?;
        let uuid = bytes[40..56].try_into().map_err(|_| Code::INVALID_VALUE)?;
        Ok(Self { process, pool, buffer, bytes: size, uuid })
    }
}

/// An open import.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Import {
    origin: Origin,
    openings: u64,
}

impl World {
    pub(crate) fn origin_of(&self, alloc: &Alloc, pool: u64) -> Origin {
        let uuid = self.devices[alloc.device].uuid;
        let process = std::process::id();
        Origin { process, pool, buffer: alloc.id, bytes: alloc.requested, uuid }
    }

    /// An address for memory of another process. `pool` is the imported pool it is of, or 0.
    pub(crate) fn import_address(&mut self, origin: &Origin, pool: u64) -> Done<u64> {
        let context = self.current()?;
        let open = self.imports.iter_mut().find(|(_, import)| import.origin == *origin);
        if let Some((address, import)) = open {
            import.openings += 1;
            return Ok(*address);
        }
        let device = self.device_by_uuid(&origin.uuid);
        let (requested, align) = (origin.bytes, self.devices[device].spec.page_bytes);
        let span = self.devices[device].pages(requested).ok_or(Code::INVALID_VALUE)?;
        let address = self.addresses.take(span, align)?;
        let (id, family, small) = (self.buffer_id(), Family::ImportedAddress, false);
        let alloc = Alloc { id, device, context, family, requested, span, align, small, pool };
        self.allocs.insert(address, alloc);
        self.imports.insert(address, Import { origin: *origin, openings: 1 });
        self.books.allocated(device, family, requested);
        Ok(address)
    }

    /// Closes an opening of legacy IPC.
    pub(crate) fn close_ipc(&mut self, address: u64) -> Done {
        let import = self.imports.get(&address).filter(|import| import.origin.pool == 0);
        import.ok_or(Code::INVALID_VALUE)?;
        if self.close_import(address)? { self.release(address) } else { Ok(()) }
    }

    /// Closes an opening; whether it was the last one, and the address is gone.
    pub(super) fn close_import(&mut self, address: u64) -> Done<bool> {
        let import = self.imports.get_mut(&address).ok_or(Code::INVALID_VALUE)?;
        import.openings -= 1;
        if import.openings > 0 {
            return Ok(false);
        }
        self.imports.remove(&address);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_fits_and_comes_back() {
        let origin =
            Origin { process: 5, pool: 0xc6 << 40, buffer: 77, bytes: 3 << 33, uuid: [7; 16] };
        assert_eq!(Origin::from_bytes(&origin.to_bytes()), Ok(origin));
        assert_eq!(Origin::from_bytes(&[0; 64]), Err(Code::INVALID_VALUE));
    }
}
