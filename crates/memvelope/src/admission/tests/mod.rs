//! The gate as a whole: tables, a naive double, threads, and a model checker for the part without
//! a lock.

mod model;
mod naive;
