//! The command as its users run it: arguments in, exit code, text and files out.

mod common;
mod demo;
mod doctor;
