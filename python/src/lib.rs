//! The Python extension module `memvelope._native`: the library's types behind the stable ABI.
//!
//! It adds no behaviour of its own. Counts are checked at this edge, errors become exceptions one
//! kind each, calls that block release the interpreter lock, and a panic of ours becomes an
//! exception that `except Exception` catches.

use pyo3::prelude::*;

mod convert;
mod doctor;
mod document;
mod envelope;
mod errors;
mod floor;
mod follow;
mod gate;
mod lease;
mod options;
mod plan;
mod request;
mod scope;
mod session;
mod tag;
mod ticket;
mod torch;

memvelope::export_session_table!();

#[pymodule]
mod _native {
    #[pymodule_export]
    use super::doctor::doctor;
    #[pymodule_export]
    use super::envelope::{Envelope, Term};
    #[pymodule_export]
    use super::errors::{
        ConfigureGateError, CuptiCallError, DriverCallError, FlushTimeoutError, InternalError,
        LeaseReleased, LoadLibraryError, MemvelopeError, MissingSymbolError, NoRoomError,
        NvmlCallError, PastMaximum, PlanRefused, ReadAllocatorError, ReadConfigError,
        ReadFileError, ReadModelError, Rejected, SessionExistsError, StartThreadError,
        UnknownModelError, WriteFileError,
    };
    #[pymodule_export]
    use super::floor::Floor;
    #[pymodule_export]
    use super::follow::Follow;
    #[pymodule_export]
    use super::gate::Gate;
    #[pymodule_export]
    use super::lease::Lease;
    #[pymodule_export]
    use super::plan::{Plan, plan};
    #[pymodule_export]
    use super::scope::{Mark, Open};
    #[pymodule_export]
    use super::session::Session;
    #[pymodule_export]
    use super::tag::{_replace_tag, _tag_name, _tag_number, _thread_tag};
    #[pymodule_export]
    use super::ticket::Ticket;
    #[pymodule_export]
    use super::torch::{
        _torch_accept, _torch_builder_ns, _torch_epoch, _torch_ingest, _torch_turnover, BlockScope,
        Framework,
    };

    #[pymodule_export]
    #[expect(non_upper_case_globals, reason = "the name is Python's")]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
