//! Which process: a number alone is given out again.

use std::path::Path;

/// Bits of a slot's owner word that hold the start time; Linux gives out process ids below 2^22.
const START_BITS: u32 = 42;

/// A process, told apart from all others of its pid namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Process id, in the process's own namespace.
    pub pid: u32,
    /// Clock ticks after boot at which it started; 0 where `/proc` does not tell.
    pub start_ticks: u64,
}

/// What `/proc/PID/stat` says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    is_over: bool,
    parent: u32,
    start_ticks: u64,
}

impl Process {
    /// This process.
    #[must_use]
    pub fn current() -> Self {
        let pid = std::process::id();
        Self { pid, start_ticks: stat(pid).map_or(0, |stat| stat.start_ticks) }
    }

    /// Whether it has ended. One that nobody has waited for yet has ended, too.
    #[must_use]
    pub fn is_over(&self) -> bool {
        match stat(self.pid) {
            Some(stat) => stat.is_over || stat.start_ticks != self.start_ticks,
            None => Path::new("/proc/self/stat").exists(),
        }
    }

    /// The process that started it, or that took it over.
    pub(super) fn parent(self) -> u32 {
        stat(self.pid).map_or(0, |stat| stat.parent)
    }

    pub(super) fn to_word(self) -> u64 {
        u64::from(self.pid) << START_BITS | self.start_ticks & ((1 << START_BITS) - 1)
    }

    pub(super) fn from_word(word: u64) -> Self {
        let pid = u32::try_from(word >> START_BITS).unwrap_or(0);
        Self { pid, start_ticks: word & ((1 << START_BITS) - 1) }
    }
}

fn stat(pid: u32) -> Option<Stat> {
    parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name of a process, in parentheses, may contain anything: the fields after the last one count.
fn parse(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    // The 20th and the 22nd field of the line, of which two stand before the parenthesis.
    let threads: u64 = fields.nth(15)?.parse().ok()?;
    let start_ticks = fields.nth(1)?.parse().ok()?;
    // The state is the first thread's: it may leave (`pthread_exit`) while others go on.
    let is_over = matches!(state, "X" | "x") || state == "Z" && threads <= 1;
    Some(Stat { is_over, parent, start_ticks })
}

/// Number of the pid namespace that this process lives in; 0 where it cannot be told.
pub(super) fn pid_namespace() -> u64 {
    let link = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let digits = |c: &char| c.is_ascii_digit();
    let number: String = link.to_string_lossy().chars().filter(digits).collect();
    number.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_stat_is_read_whatever_the_process_is_called() {
        let of = |name: &str, state: &str, threads: u64| {
            format!(
                "12 ({name}) {state} 7 12 12 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 {threads} 0 98765 4\n"
            )
        };
        let line = |name: &str, state: &str| of(name, state, 1);
        let expect = |is_over| Some(Stat { is_over, parent: 7, start_ticks: 98765 });
        assert_eq!(parse(&line("python3", "S")), expect(false));
        assert_eq!(parse(&line("a) Z 1 (b", "R")), expect(false));
        assert_eq!(parse(&line("x", "Z")), expect(true));
        assert_eq!(parse(&of("x", "Z", 2)), expect(false), "its first thread alone has ended");
        assert_eq!(parse("12 (x) S 7"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn a_process_is_one_word_and_back() {
        let own = Process::current();
        assert!(own.start_ticks > 0 && !own.is_over() && own.parent() > 0);
        assert_eq!(Process::from_word(own.to_word()), own);
        let successor = Process { start_ticks: own.start_ticks + 1, ..own };
        assert!(successor.is_over(), "a number that was given out again is another process");
        assert!(Process { pid: 4_194_304, start_ticks: 1 }.is_over());
        assert!(pid_namespace() > 0);
    }
}
