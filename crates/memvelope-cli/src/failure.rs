//! How a subcommand fails: one `error:` line (with its causes), `hint:` lines, one exit code.

use crate::output;
use std::process::ExitCode;

/// Why a subcommand stopped.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What was given makes no sense; nothing was written. Exit code 2.
    BadInput(anyhow::Error),
    /// The work itself failed. Exit code 1.
    Failed(anyhow::Error),
}

/// Result of a subcommand or a part of one.
pub(crate) type Outcome<T> = Result<T, Failure>;

impl Failure {
    /// Bad input, in one sentence.
    pub(crate) fn bad(text: impl Into<String>) -> Self {
        Self::BadInput(anyhow::anyhow!(text.into()))
    }

    /// Exit code of the process.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::BadInput(_) => ExitCode::from(2),
            Self::Failed(_) => ExitCode::from(1),
        }
    }

    /// Prints to stderr. Errors of the library bring their own `hint:` line after a newline; it
    /// stays a line of its own.
    pub(crate) fn print(&self) {
        let (Self::BadInput(error) | Self::Failed(error)) = self;
        let mut sentences = Vec::new();
        let mut hints = Vec::new();
        for cause in error.chain() {
            for line in cause.to_string().lines() {
                match line.strip_prefix("hint: ") {
                    Some(hint) => hints.push(hint.to_owned()),
                    // A wrapper that repeats its cause would say everything twice.
                    None if sentences.iter().any(|said: &String| said.contains(line)) => {}
                    None => sentences.push(line.to_owned()),
                }
            }
        }
        output::remark(&format!("error: {}", sentences.join(": ")));
        for hint in hints {
            output::remark(&format!("hint: {hint}"));
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<memvelope::Error> for Failure {
    /// What the library calls an unusable value is the caller's bad input.
    fn from(error: memvelope::Error) -> Self {
        use memvelope::Error as E;
        match error {
            E::ReadConfig { .. }
            | E::ReadModel { .. }
            | E::ReadAllocator { .. }
            | E::UnknownModel { .. }
            | E::ConfigureGate { .. }
            | E::NoRoom { .. }
            | E::ReadFile { .. } => Self::BadInput(error.into()),
            _ => Self::Failed(error.into()),
        }
    }
}
