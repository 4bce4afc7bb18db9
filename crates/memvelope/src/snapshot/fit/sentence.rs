//! Why not, in one sentence.

use super::cache::{Cache, class_of};
use super::remedies::Need;
use crate::framework::{SizeClass, Space};
use crate::units::Bytes;

/// What stops a request.
pub(super) enum Stop {
    Driver,
    Pool { idle: Bytes },
    Cache,
    Limit,
}

/// "no, because …".
pub(super) fn because(need: &Need<'_>, stop: &Stop) -> String {
    let why = match (stop, need.cache) {
        (Stop::Limit, Some(cache)) => limit(need, cache),
        (Stop::Cache, Some(cache)) => cached(need, cache),
        (Stop::Pool { idle }, _) => {
            let (needed, free) = apart(need.needed, need.free);
            format!(
                "the pool holds {idle} that nobody uses, and to grow by {needed} it finds {free} \
                 free on the device"
            )
        }
        _ => {
            let (needed, free) = apart(need.needed, need.free);
            let page = Bytes(need.page);
            format!("{needed} are needed (in pages of {page}) and {free} are free on the device")
        }
    };
    format!("no, because {why}")
}

fn limit(need: &Need<'_>, cache: &Cache<'_>) -> String {
    let limit = cache.settings().limit_bytes.unwrap_or_default();
    let reserved = cache.framework.reserved_bytes;
    let needed = Bytes(cache.segment(need.rounded));
    let given_back = match need.given_back() {
        0 => "none of which can be given back".to_owned(),
        bytes => format!("of which {} can be given back", Bytes(bytes)),
    };
    format!(
        "this process may reserve {limit} in torch: {reserved} are reserved, {given_back}, and \
         {needed} more are needed"
    )
}

fn cached(need: &Need<'_>, cache: &Cache<'_>) -> String {
    let (needed, room) = apart(need.needed, Bytes(need.room()));
    let mut why = match need.given_back() {
        0 => format!("{needed} are needed from the driver and {room} are free on the device"),
        given_back => format!(
            "{needed} are needed from the driver and {room} can be had: {} free on the device, {} \
             given back by torch",
            need.free,
            Bytes(given_back)
        ),
    };
    let framework = cache.framework;
    let kept = framework.cached_bytes().saturating_sub(framework.releasable_bytes);
    let mine = cache.spaces(class_of(need.rounded));
    let largest = mine.map(|space| space.largest_free_bytes).max().unwrap_or_default();
    if largest.0 >= need.rounded {
        why += &format!(
            "; a block of {largest} is free here, but max_split_size forbids to take it for this"
        );
    } else if let Some(space) = elsewhere(need, cache) {
        why += &format!(
            "; a block of {} is free, but in {}, which this request may not use",
            space.largest_free_bytes,
            place(space)
        );
    } else if kept > Bytes::ZERO {
        why += &match largest {
            Bytes::ZERO => format!("; {kept} more are cached, none of it for requests like this"),
            largest => format!(
                "; {kept} more are cached in pieces, of which this request may use {largest} at \
                 most"
            ),
        };
    }
    why
}

/// The space with the largest block that would do.
fn elsewhere<'a>(need: &Need<'_>, cache: &Cache<'a>) -> Option<&'a Space> {
    let spaces = cache.framework.spaces.iter();
    let fitting = spaces.filter(|space| space.largest_free_bytes.0 >= need.rounded);
    fitting.max_by_key(|space| space.largest_free_bytes)
}

fn place(space: &Space) -> String {
    let class = match space.class {
        SizeClass::Small => "small",
        SizeClass::Large => "large",
    };
    let stream = match space.stream {
        0 => "the default stream".to_owned(),
        stream => format!("stream {stream:#x}"),
    };
    match space.pool {
        (0, 0) => format!("the {class} blocks of {stream}"),
        (a, b) => format!("the {class} blocks of private pool ({a}, {b}) on {stream}"),
    }
}

/// Two sizes as texts that tell them apart, as far as they differ.
fn apart(one: Bytes, other: Bytes) -> (String, String) {
    let texts = (one.to_string(), other.to_string());
    if one == other || texts.0 != texts.1 {
        return texts;
    }
    let mib = |bytes: Bytes| format!("{:.1} MiB", bytes.0 as f64 / Bytes::MIB as f64);
    let finer = (mib(one), mib(other));
    if finer.0 != finer.1 { finer } else { (format!("{} B", one.0), format!("{} B", other.0)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_differ_look_different() {
        let check = |one: u64, other: u64, expected: (&str, &str)| {
            let (one, other) = apart(Bytes(one), Bytes(other));
            assert_eq!((one.as_str(), other.as_str()), expected);
        };
        check(2 << 30, 1 << 30, ("2.00 GiB", "1.00 GiB"));
        check(2 << 30, (2 << 30) - (2 << 20), ("2048.0 MiB", "2046.0 MiB"));
        check(2 << 30, (2 << 30) - 1, ("2147483648 B", "2147483647 B"));
        check(5, 5, ("5 B", "5 B"));
    }
}
