//! What is refused, with which reason, by how much and until when.

use super::*;
use crate::units::Nanos;

const MAX: u64 = i64::MAX as u64;

/// One line of the table: a request, and the answer.
#[track_caller]
fn check(gate: &Gate, request: Request<'_>, reason: Reason, short_by: u64, has_retry: bool) {
    let before = rejected(gate, reason);
    let explained = gate.explain(&request);
    let refused = gate.try_admit(&request).unwrap_err();
    assert_eq!(refused.reason, reason, "{request:?}");
    assert_eq!(refused.short_by_tokens, Tokens(short_by), "{request:?}");
    assert_eq!(refused.retry_after.is_some(), has_retry, "{request:?}");
    assert_eq!(has_retry, reason.is_for_now(), "{request:?}");
    assert_eq!(rejected(gate, reason), before + 1, "{request:?}");
    assert_eq!((explained.is_admitted, explained.reason), (false, Some(reason)), "{explained}");
    assert_eq!(explained.retry_after, refused.retry_after, "{explained}");
}

#[test]
fn what_no_account_is_asked_about() {
    for policy in POLICIES {
        let gate = Gate::new(GateConfig {
            max_model_len: Some(Tokens(800)),
            max_new_tokens_default: Some(Tokens(40)),
            ..config(policy, 100)
        });
        let gate = gate.unwrap();
        for bad in [0, MAX + 1, i64::MIN as u64, -1i64 as u64, u64::MAX, 1 << 63] {
            check(&gate, request(bad, 1), Reason::BadTokenCount, 0, false);
            check(&gate, request(1, bad), Reason::BadTokenCount, 0, false);
            check(&gate, request(bad, bad), Reason::BadTokenCount, 0, false);
        }
        check(&gate, request(MAX, 1), Reason::BadTokenCount, 0, false);
        check(&gate, request(MAX, MAX), Reason::BadTokenCount, 0, false);
        check(&gate, request(MAX - 1, 1), Reason::TooLong, MAX - 800, false);
        check(&gate, request(800, 1), Reason::TooLong, 1, false);
        // A prompt that leaves no room is too long, whatever the cap.
        check(&gate, Request::new(Tokens(800), None), Reason::TooLong, 1, false);
        check(&gate, Request::new(Tokens(1000), None), Reason::TooLong, 201, false);
        check(&gate, request(1, 1).in_pool("batch"), Reason::UnknownPool, 0, false);
        let capped = gate.try_admit(&Request::new(Tokens(780), None)).unwrap();
        assert_eq!(capped.max_tokens(), Tokens(800), "the cap, and no more than the length");
        drop(capped);
        assert_idle(&gate);
    }
}

#[test]
fn longer_than_the_pool_could_ever_hold() {
    for policy in POLICIES {
        let gate = gate(policy, 100);
        // Under `Optimistic` only the prompt has to fit.
        let (prompt, new) = if policy.label() == "optimistic" { (1601, 1) } else { (1600, 1) };
        check(&gate, request(prompt, new), Reason::TooLong, prompt + new - 1600, false);
        check(&gate, request(1 << 39, 1), Reason::TooLong, (1 << 39) + 1 - 1600, false);
        assert!(admit(&gate, 1599, 1).is_ok());
    }
    // A lending pool could have all but the floors of the others.
    for policy in POLICIES {
        let pools = pools(&[("a", 1, 0), ("b", 1, 50)]);
        let gate = Gate::new(GateConfig { pools, ..config(policy, 100) }).unwrap();
        assert!(admit(&gate, 16 * 75 - 1, 1).is_ok());
        check(&gate, request(16 * 75 + 1, 1), Reason::TooLong, 2, false);
        assert!(gate.try_admit(&request(16 * 100 - 1, 1).in_pool("b")).is_ok());
    }
}

#[test]
fn no_capacity_now() {
    for policy in POLICIES {
        let gate = gate(policy, 100);
        let _all = admit(&gate, 1599, 1).unwrap();
        // Two blocks of claims, or the one that it takes at once.
        let short_by = if policy == Policy::Guaranteed { 17 } else { 1 };
        check(&gate, request(10, 7), Reason::NoCapacity, short_by, true);
        let text = admit(&gate, 10, 7).unwrap_err().to_string();
        let expected = format!("short by {short_by} tokens, try again in 1.00 s");
        assert_eq!(text, format!("rejected: no capacity now, {expected}"));
    }
}

#[test]
fn unsafe_under_banker_though_it_would_fit() {
    let gate = gate(Policy::Banker, 100);
    let _large = admit(&gate, 16 * 60, 16 * 30).unwrap(); // needs 30 of the 40 that are free
    assert!(admit(&gate, 16 * 10, 16 * 90).is_ok());
    // Eleven at once would leave 29 for it, and need more than that.
    check(&gate, request(16 * 11, 16 * 31), Reason::NoCapacity, 16, true);
    assert!(admit(&gate, 16 * 10, 16).is_ok());
    // What ends sooner may take more, because it gives back before.
    assert!(admit(&gate, 16 * 11, 16).is_ok());
    assert!(admit(&gate, 16 * 40, 16).is_err());
}

#[test]
fn overcommitted_predicted_and_too_many() {
    for policy in POLICIES {
        let gate = gate(policy, 100);
        let lease = admit(&gate, 800, 1).unwrap();
        assert!(gate.set_capacity(Blocks(30), 1));
        check(&gate, request(1, 1), Reason::Overcommitted, 2, true);
        drop(lease);
        // Once it could have had so much.
        check(&gate, request(639, 1), Reason::Overcommitted, 640 - 480, true);
    }
    let estimate = Some(Estimate::default());
    let gate = Gate::new(GateConfig { estimate, ..config(Policy::Banker, 100) }).unwrap();
    let _first = admit(&gate, 16, 16 * 79).unwrap();
    check(&gate, request(16, 16 * 79), Reason::Predicted, 0, true);
    check(&gate, request(16, 16 * 79).of_class("new"), Reason::Predicted, 0, true);
    assert!(admit(&gate, 16, 16 * 19).is_ok(), "whatever they do, it fits");
    for policy in [Policy::Banker, POLICIES[2]] {
        let gate = Gate::new(GateConfig { leases_max: 2, ..config(policy, 100) }).unwrap();
        let _two = [admit(&gate, 1, 1).unwrap(), admit(&gate, 1, 1).unwrap()];
        check(&gate, request(1, 1), Reason::TooManyLeases, 0, true);
    }
}

#[test]
fn queued_full_expired_and_cancelled() {
    for policy in POLICIES {
        let gate = Gate::new(GateConfig { queue_max: 2, ..config(policy, 100) }).unwrap();
        let all = admit(&gate, 1599, 1).unwrap();
        let waker = std::task::Waker::noop();
        let mut late = gate.enqueue(&request(1, 1), 0, Some(Nanos(50))).unwrap();
        let gone = gate.enqueue(&request(1, 1), 0, None).unwrap();
        check(&gate, request(1, 1), Reason::Queued, 0, true);
        let full = gate.enqueue(&request(1, 1), 0, None).unwrap_err();
        assert_eq!((full.reason, full.retry_after.is_some()), (Reason::QueueFull, true));
        assert_eq!(rejected(&gate, Reason::QueueFull), 1);
        drop(gone);
        assert_eq!(rejected(&gate, Reason::Cancelled), 1);
        gate.tick(Nanos(49));
        assert!(late.try_take(waker).is_none());
        gate.tick(Nanos(50));
        let expired = late.try_take(waker).unwrap().unwrap_err();
        assert_eq!(expired, Rejection::never(Reason::Expired, Tokens::ZERO));
        assert!(late.try_take(waker).is_none(), "an outcome is taken once");
        assert_eq!(rejected(&gate, Reason::Expired), 1);
        for bad in [request(0, 1), request(1 << 41, 1), request(1, 1).in_pool("none")] {
            assert!(gate.enqueue(&bad, 0, None).is_err());
        }
        drop(all);
        assert_idle(&gate);
    }
}

#[test]
fn reasons_have_labels_texts_and_places() {
    for (place, reason) in Reason::ALL.into_iter().enumerate() {
        assert_eq!(reason as usize, place);
        assert_eq!(serde_json::to_value(reason).unwrap(), reason.label());
        assert!(!reason.to_string().is_empty());
    }
}

#[test]
fn configurations_that_cannot_work() {
    let check = |config: GateConfig, argument: &str| {
        let error = Gate::new(config).unwrap_err().to_string();
        assert!(error.starts_with(&format!("gate: {argument}: ")), "{error}");
    };
    for policy in POLICIES {
        let config = || config(policy, 100);
        check(GateConfig { capacity: Blocks(1 << 30), ..config() }, "capacity");
        for bad in [Tokens(0), Tokens(1 << 63), Tokens::MAX] {
            check(GateConfig { max_model_len: Some(bad), ..config() }, "max_model_len");
            check(
                GateConfig { max_new_tokens_default: Some(bad), ..config() },
                "max_new_tokens_default",
            );
        }
        for margin in [-0.1, 100.1, f64::NAN, f64::INFINITY] {
            check(GateConfig { estimate: Some(Estimate { margin }), ..config() }, "margin");
        }
        check(GateConfig { leases_max: 0, ..config() }, "leases_max");
        for wrong in [
            &[("", 1, 100)][..],
            &[("a", 0, 100)],
            &[("a", 1, 101)],
            &[("a", 1, 100), ("a", 2, 100)],
            &[("a", 1, 100); 65],
        ] {
            check(GateConfig { pools: pools(wrong), ..config() }, "pools");
        }
        let bare = Gate::new(GateConfig { max_model_len: None, ..config() });
        // Somebody must say how long the longest sequence is, but where nothing depends on it.
        assert_eq!(bare.is_ok(), policy.label() == "optimistic");
        let capped = Some(Tokens(10));
        let capped = GateConfig { max_model_len: None, max_new_tokens_default: capped, ..config() };
        assert!(Gate::new(capped).is_ok());
        assert!(Gate::new(GateConfig { capacity: Blocks(0), ..config() }).is_ok());
        assert!(Gate::new(GateConfig { queue_max: 0, ..config() }).is_ok());
    }
    for watermark in [-0.1, 1.1, f64::NAN] {
        check(config(Policy::Optimistic { watermark }, 100), "watermark");
    }
}
