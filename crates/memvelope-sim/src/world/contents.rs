//! What the bytes of the device are, kept sparsely and within a limit.
//!
//! A page of host memory exists only for what a copy or a partial memset wrote. Past the limit,
//! and for copies too large to keep, contents are forgotten: such bytes read as the fill of their
//! allocation, and the books say how many were not kept. Kernels write nothing.

use crate::abi::{Code, Done};
use crate::scenario;
use crate::world::World;
use std::collections::HashMap;

const PAGE: u64 = 4096;

/// All contents, by allocation base or number of physical memory.
#[derive(Debug)]
pub(crate) struct Store {
    limit: scenario::Contents,
    areas: HashMap<u64, Area>,
    kept_bytes: u64,
    pub(crate) not_kept: u64,
    pub(crate) not_kept_bytes: u64,
}

#[derive(Debug, Default)]
struct Area {
    fill: u8,
    pages: HashMap<u64, Box<[u8; PAGE as usize]>>,
}

/// A piece of device memory inside one area.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    area: u64,
    offset: u64,
    len: usize,
    /// Whether it is the area as a whole.
    whole: bool,
}

impl Store {
    pub(crate) fn new(limit: scenario::Contents) -> Self {
        Self { limit, areas: HashMap::new(), kept_bytes: 0, not_kept: 0, not_kept_bytes: 0 }
    }

    pub(crate) fn forget(&mut self, area: u64) {
        if let Some(area) = self.areas.remove(&area) {
            self.kept_bytes -= area.pages.len() as u64 * PAGE;
        }
    }

    /// Whether `len` more bytes may be kept; counts them when not.
    fn admit(&mut self, len: usize) -> bool {
        let len = len as u64;
        let pages = (len.div_ceil(PAGE) + 1) * PAGE;
        if len <= self.limit.copy_bytes_max && self.kept_bytes + pages <= self.limit.bytes_max {
            return true;
        }
        self.not_kept += 1;
        self.not_kept_bytes += len;
        false
    }

    /// Forgets a piece: what is no longer known reads as the fill.
    fn drop_pages(&mut self, piece: &Piece) {
        let Some(area) = self.areas.get_mut(&piece.area) else { return };
        let (start, end) = (piece.offset, piece.offset + piece.len as u64);
        let whole_pages = start.div_ceil(PAGE)..end / PAGE;
        let before = area.pages.len();
        area.pages.retain(|page, _| !whole_pages.contains(page));
        self.kept_bytes -= (before - area.pages.len()) as u64 * PAGE;
        for edge in [start / PAGE, end / PAGE] {
            let Some(page) = area.pages.get_mut(&edge) else { continue };
            let from = start.saturating_sub(edge * PAGE).min(PAGE) as usize;
            let to = end.saturating_sub(edge * PAGE).min(PAGE) as usize;
            page[from..to].fill(area.fill);
        }
    }

    fn write(&mut self, piece: &Piece, from: &[u8]) {
        let area = self.areas.entry(piece.area).or_default();
        let (mut offset, mut from) = (piece.offset, from);
        while !from.is_empty() {
            let within = (offset % PAGE) as usize;
            let n = from.len().min(PAGE as usize - within);
            let fill = area.fill;
            let page = area.pages.entry(offset / PAGE).or_insert_with(|| {
                self.kept_bytes += PAGE;
                Box::new([fill; PAGE as usize])
            });
            page[within..within + n].copy_from_slice(&from[..n]);
            from = &from[n..];
            offset += n as u64;
        }
    }

    fn read(&self, piece: &Piece, to: &mut [u8]) {
        let Some(area) = self.areas.get(&piece.area) else { return to.fill(0) };
        let (mut offset, mut to) = (piece.offset, to);
        while !to.is_empty() {
            let within = (offset % PAGE) as usize;
            let n = to.len().min(PAGE as usize - within);
            let (head, rest) = to.split_at_mut(n);
            match area.pages.get(&(offset / PAGE)) {
                Some(page) => head.copy_from_slice(&page[within..within + n]),
                None => head.fill(area.fill),
            }
            to = rest;
            offset += n as u64;
        }
    }
}

impl World {
    /// The pieces that make up device memory `[address, address + len)`; every byte must belong
    /// to a live allocation or an accessible mapping.
    pub(crate) fn pieces(&self, address: u64, len: usize) -> Done<Vec<Piece>> {
        let mut pieces = Vec::with_capacity(1);
        let (mut address, mut left) = (address, len as u64);
        while left > 0 {
            let (base, area, bytes) = if let Some((base, alloc)) = self.alloc_around(address) {
                (base, base, alloc.requested)
            } else {
                let (base, mapping) =
                    self.vmm.mapping_around(address).ok_or(Code::INVALID_VALUE)?;
                if !mapping.is_accessible() {
                    return Err(Code::INVALID_VALUE);
                }
                (base, mapping.physical, mapping.bytes)
            };
            let offset = address - base;
            let n = left.min(bytes - offset);
            let whole = offset == 0 && n == bytes && base == area;
            pieces.push(Piece { area, offset, len: n as usize, whole });
            left -= n;
            address += n;
        }
        Ok(pieces)
    }

    /// A copy from host memory.
    pub(crate) fn write_device(&mut self, address: u64, from: &[u8]) -> Done {
        let pieces = self.pieces(address, from.len())?;
        let keep = self.contents.admit(from.len());
        let mut at = 0;
        for piece in &pieces {
            if keep {
                self.contents.write(piece, &from[at..at + piece.len]);
            } else {
                self.contents.drop_pages(piece);
            }
            at += piece.len;
        }
        Ok(())
    }

    /// A copy to host memory. Every byte of `to` is written.
    pub(crate) fn read_device(&self, address: u64, to: &mut [u8]) -> Done {
        let mut at = 0;
        for piece in self.pieces(address, to.len())? {
            self.contents.read(&piece, &mut to[at..at + piece.len]);
            at += piece.len;
        }
        Ok(())
    }

    /// A copy inside the device, or between devices.
    pub(crate) fn copy_device(&mut self, to: u64, from: u64, len: usize) -> Done {
        let targets = self.pieces(to, len)?;
        let sources = self.pieces(from, len)?;
        if !self.contents.admit(len) {
            targets.iter().for_each(|piece| self.contents.drop_pages(piece));
            return Ok(());
        }
        let mut bytes = vec![0; len];
        let mut at = 0;
        for piece in &sources {
            self.contents.read(piece, &mut bytes[at..at + piece.len]);
            at += piece.len;
        }
        self.write_device(to, &bytes)
    }

    /// A memset of `count` elements of `width` bytes.
    pub(crate) fn fill_device(
        &mut self,
        address: u64,
        value: u32,
        width: usize,
        count: usize,
    ) -> Done {
        let len = width.checked_mul(count).ok_or(Code::INVALID_VALUE)?;
        let pieces = self.pieces(address, len)?;
        let element = value.to_le_bytes();
        let uniform = element[..width].iter().all(|byte| *byte == element[0]);
        if uniform
            && let [piece] = pieces[..]
            && piece.whole
        {
            // The whole allocation has one value: that is one byte to remember.
            self.contents.forget(piece.area);
            self.contents.areas.insert(piece.area, Area { fill: element[0], ..Area::default() });
            return Ok(());
        }
        if !self.contents.admit(len) {
            pieces.iter().for_each(|piece| self.contents.drop_pages(piece));
            return Ok(());
        }
        let bytes: Vec<u8> = element[..width].iter().copied().cycle().take(len).collect();
        self.write_device(address, &bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> Store {
        Store::new(scenario::Contents { bytes_max: 64 << 10, copy_bytes_max: 16 << 10 })
    }

    fn piece(offset: u64, len: usize) -> Piece {
        Piece { area: 1, offset, len, whole: false }
    }

    #[test]
    fn writes_cross_pages_and_read_back() {
        let mut store = store();
        let data: Vec<u8> = (0..10_000_u32).map(|i| (i % 251) as u8).collect();
        store.write(&piece(4000, data.len()), &data);
        let mut back = vec![9; data.len() + 8];
        store.read(&piece(3996, back.len()), &mut back);
        assert_eq!(&back[..4], [0; 4]);
        assert_eq!(&back[4..4 + data.len()], data);
        assert_eq!(store.kept_bytes, 4 * PAGE);
        store.forget(1);
        assert_eq!(store.kept_bytes, 0);
    }

    #[test]
    fn the_limit_holds_and_is_counted() {
        let mut store = store();
        assert!(!store.admit(17 << 10));
        let mut kept = 0;
        while store.admit(8 << 10) {
            store.write(&piece(kept * 8192, 8192), &[1; 8192]);
            kept += 1;
        }
        assert!(store.kept_bytes <= 64 << 10);
        assert_eq!((store.not_kept, store.not_kept_bytes), (2, 25 << 10));
        store.drop_pages(&piece(0, 8192));
        let mut back = [7; 8];
        store.read(&piece(0, 8), &mut back);
        assert_eq!(back, [0; 8]);
    }
}
