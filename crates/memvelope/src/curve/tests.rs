use super::*;
use proptest::prelude::*;

fn term(block_tokens: u32, keep_tokens: u64, count: u32) -> CostTerm {
    CostTerm { block_tokens, keep_tokens: Tokens(keep_tokens), count }
}

const ALL: u64 = u64::MAX;

/// The formula as documented, in 128 bits.
fn formula(fixed: u64, terms: &[CostTerm], tokens: u64) -> u64 {
    if tokens == 0 {
        return 0;
    }
    let blocks = |term: &CostTerm| {
        let kept = tokens.min(term.keep_tokens.0);
        u128::from(kept.div_ceil(term.block_tokens.into())) * u128::from(term.count)
    };
    let sum = u128::from(fixed) + terms.iter().map(blocks).sum::<u128>();
    u64::try_from(sum).unwrap_or(u64::MAX)
}

/// `tokens` is the largest number whose blocks are at most so many.
fn check_inverse(curve: &CostCurve, blocks: u64) {
    let tokens = curve.tokens(Blocks(blocks));
    assert!(curve.blocks(tokens).0 <= blocks, "{curve:?}: {tokens:?} take more than {blocks}");
    if let Some(more) = tokens.checked_add(Tokens(1)) {
        assert!(curve.blocks(more).0 > blocks, "{curve:?}: {more:?} take {blocks}, too");
    }
}

/// Lengths at and around everything that a term does.
fn lengths(terms: &[CostTerm]) -> Vec<u64> {
    let mut lengths = vec![0, 1, 2, u64::from(u32::MAX), 1 << 40, u64::MAX - 1, u64::MAX];
    for term in terms {
        let (block, keep) = (u64::from(term.block_tokens), term.keep_tokens.0);
        for at in [block, 7 * block, keep, keep / block * block] {
            lengths.extend([at.saturating_sub(1), at, at.saturating_add(1)]);
        }
    }
    lengths
}

#[test]
fn a_plain_curve_and_its_inverse_agree() {
    let curve = CostCurve::new(16, 1).unwrap();
    assert_eq!(curve.blocks(Tokens(0)), Blocks(0));
    assert_eq!(curve.blocks(Tokens(16)), Blocks(2));
    assert_eq!(curve.blocks(Tokens(17)), Blocks(3));
    assert_eq!(curve.blocks(curve.tokens(Blocks(9))), Blocks(9));
    assert_eq!(curve.tokens(Blocks(1)), Tokens(0), "the state alone is no sequence");
    assert!(CostCurve::new(0, 0).is_none());
    assert!(curve.is_plain() && curve.is_exact());
    assert_eq!((curve.block_tokens(), curve.fixed_blocks()), (16, Blocks(1)));
}

/// Gemma 3 at 16 tokens a block: a full group beside five with 1024 tokens of window and 2 * 2048
/// in flight, each of which takes one block more.
#[test]
fn a_window_ends() {
    let terms = [term(16, ALL, 1), term(16, 1023 + 4096, 5)];
    let curve = CostCurve::from_terms(5, &terms).unwrap();
    assert_eq!(curve.blocks(Tokens(1)), Blocks(6 + 5));
    assert_eq!(curve.blocks(Tokens(5104)), Blocks(6 * 319 + 5));
    assert_eq!(curve.blocks(Tokens(5105)), Blocks(6 * 320 + 5));
    assert_eq!(curve.blocks(Tokens(5121)), Blocks(321 + 5 * 320 + 5));
    assert_eq!(curve.tokens(Blocks(6 * 320 + 5)), Tokens(5120));
    assert!(curve.is_exact() && !curve.is_plain());
    assert_eq!(curve.block_tokens(), 16);
}

#[test]
fn what_does_not_grow_holds_any_length() {
    let states = CostCurve::from_terms(3, &[]).unwrap();
    assert_eq!([0, 1, ALL].map(|n| states.blocks(Tokens(n)).0), [0, 3, 3]);
    assert_eq!([0, 2, 3].map(|n| states.tokens(Blocks(n)).0), [0, 0, ALL]);
    assert_eq!(states.block_tokens(), u32::MAX);
    let window = CostCurve::from_terms(1, &[term(16, 100, 1)]).unwrap();
    assert_eq!([1, 7, 8].map(|n| window.tokens(Blocks(n)).0), [0, 96, ALL]);
}

#[test]
fn equal_terms_are_added_up_and_empty_ones_left_out() {
    let many = [term(16, ALL, 1), term(8, 100, 0), term(8, 0, 7), term(16, ALL, 2)];
    let curve = CostCurve::from_terms(0, &many).unwrap();
    assert_eq!(curve, CostCurve::from_terms(0, &[term(16, ALL, 3)]).unwrap());
    assert_eq!(curve.terms().collect::<Vec<_>>(), [term(16, ALL, 3)]);
    // Windows that end in the same block are the same; the order does not matter.
    let (a, b) = ([term(16, 17, 1), term(8, ALL, 1)], [term(8, ALL, 1), term(16, 32, 1)]);
    assert_eq!(CostCurve::from_terms(2, &a), CostCurve::from_terms(2, &b));
    let plain = CostCurve::from_terms(9, &[term(16, ALL, 1)]);
    assert_eq!(plain, CostCurve::new(16, 9));
}

#[test]
fn terms_that_say_nothing_are_refused() {
    assert_eq!(CostCurve::from_terms(1, &[term(0, 10, 1)]), None);
    assert_eq!(CostCurve::from_terms(0, &[]), None);
    assert_eq!(CostCurve::from_terms(0, &[term(1, 0, 1), term(1, 1, 0)]), None);
    assert_eq!(CostCurve::from_terms(0, &[term(1, 1, u32::MAX), term(1, 2, 1)]), None);
}

#[test]
fn surplus_terms_are_bounded() {
    // Four that matter, and one small window that counts as a constant.
    let terms = [16, 32, 64, 128].map(|block| term(block, 1 << 20, 1));
    let small = term(16, 64, 2);
    let curve = CostCurve::from_terms(1, &[&terms[..], &[small]].concat()).unwrap();
    assert!(!curve.is_exact());
    let expected = CostCurve::from_terms(1 + 2 * 4, &terms).unwrap().as_upper_bound();
    assert_eq!(curve, expected);
    // Six that keep all.
    let full = [16, 8, 32, 64, 4, 128].map(|block| term(block, ALL, 1));
    let curve = CostCurve::from_terms(0, &full).unwrap();
    let kept = [term(32, ALL, 3), term(4, ALL, 1), term(8, ALL, 1), term(16, ALL, 1)];
    assert_eq!(curve.terms().collect::<Vec<_>>(), kept);
    assert!(!curve.is_exact());
}

#[test]
fn nothing_overflows() {
    let worst = [term(1, ALL, u32::MAX)];
    let curve = CostCurve::from_terms(u64::MAX, &worst).unwrap();
    assert_eq!([0, 1, ALL].map(|n| curve.blocks(Tokens(n)).0), [0, ALL, ALL]);
    assert_eq!([0, ALL - 1, ALL].map(|n| curve.tokens(Blocks(n)).0), [0, 0, ALL]);
    let curve = CostCurve::from_terms(0, &worst).unwrap();
    assert_eq!(curve.blocks(Tokens(1 << 32)).0, u64::from(u32::MAX) << 32);
    assert_eq!(curve.blocks(Tokens(1 << 33)).0, ALL);
    let plain = CostCurve::new(1, u32::MAX).unwrap();
    assert_eq!(plain.blocks(Tokens::MAX).0, ALL);
    assert_eq!(plain.tokens(Blocks::MAX), Tokens::MAX);
    // So many blocks do not fit a term: it counts as if it kept all.
    let long = CostCurve::from_terms(0, &[term(1, 1 << 40, 1)]).unwrap();
    assert!(!long.is_exact() && long.is_plain());
}

#[test]
fn plain_curves_are_written_as_two_numbers() {
    let plain = CostCurve::new(16, 3).unwrap();
    let text = serde_json::to_string(&plain).unwrap();
    assert_eq!(text, r#"{"block_tokens":16,"fixed_blocks":3}"#);
    let terms = [term(16, 30, 2), term(32, ALL, 1)];
    let window = CostCurve::from_terms(3, &terms).unwrap();
    let text = serde_json::to_string(&window.as_upper_bound()).unwrap();
    let terms = r#"[{"block_tokens":32,"count":1},{"block_tokens":16,"keep_tokens":32,"count":2}]"#;
    let start = r#"{"block_tokens":16,"fixed_blocks":3,"terms":"#;
    assert_eq!(text, format!(r#"{start}{terms},"is_exact":false}}"#));
    for bad in [
        r#"{"block_tokens":0,"fixed_blocks":3}"#,
        r#"{"block_tokens":16}"#,
        r#"{"block_tokens":16,"fixed_blocks":0,"terms":[{"block_tokens":8,"count":1}]}"#,
        r#"{"block_tokens":16,"fixed_blocks":0,"terms":[]}"#,
        r#"{"block_tokens":16,"fixed_blocks":-1}"#,
        r#"{"block_tokens":16,"fixed_blocks":0,"tokens":1}"#,
    ] {
        assert!(serde_json::from_str::<CostCurve>(bad).is_err(), "{bad}");
    }
}

fn any_term() -> impl Strategy<Value = CostTerm> {
    let block = prop_oneof![1u32..=64, 1u32.., Just(16)];
    let keep = prop_oneof![Just(ALL), 0u64..10_000, any::<u64>()];
    let count = prop_oneof![0u32..8, 0u32..1 << 28];
    (block, keep, count).prop_map(|(block, keep, count)| term(block, keep, count))
}

proptest! {
    #[test]
    fn blocks_are_the_formula_and_never_fall(
        fixed in prop_oneof![0u64..100, any::<u64>()],
        terms in prop::collection::vec(any_term(), 0..7),
        more in prop::collection::vec(any::<u64>(), 8),
    ) {
        let Some(curve) = CostCurve::from_terms(fixed, &terms) else { return Ok(()) };
        let mut lengths = lengths(&terms);
        lengths.extend(more);
        lengths.sort_unstable();
        let mut before = 0;
        for tokens in lengths {
            let expected = formula(fixed, &terms, tokens);
            let found = curve.blocks(Tokens(tokens)).0;
            prop_assert!(found >= expected, "{found} of {tokens}, expected {expected}");
            prop_assert!(!curve.is_exact() || found == expected, "{tokens}: {found} {expected}");
            prop_assert!(found >= before, "{tokens}: {found} after {before}");
            prop_assert!(tokens == 0 || found > 0);
            before = found;
        }
    }

    #[test]
    fn tokens_are_the_inverse(
        fixed in prop_oneof![0u64..100, any::<u64>()],
        terms in prop::collection::vec(any_term(), 0..7),
        block_tokens in prop_oneof![1u32..100, 1u32..],
        more in prop::collection::vec(any::<u64>(), 8),
    ) {
        let plain = CostCurve::new(block_tokens, fixed as u32);
        for curve in plain.into_iter().chain(CostCurve::from_terms(fixed, &terms)) {
            let at = lengths(&terms).into_iter().map(|tokens| curve.blocks(Tokens(tokens)).0);
            for blocks in at.chain(more.iter().copied()).chain([0, fixed, u64::MAX]) {
                for blocks in [blocks.saturating_sub(1), blocks, blocks.saturating_add(1)] {
                    check_inverse(&curve, blocks);
                }
            }
        }
    }

    #[test]
    fn curves_are_read_as_they_were_written(
        fixed: u64,
        terms in prop::collection::vec(any_term(), 0..7),
    ) {
        if let Some(curve) = CostCurve::from_terms(fixed, &terms) {
            let text = serde_json::to_string(&curve).unwrap();
            prop_assert_eq!(serde_json::from_str::<CostCurve>(&text).unwrap(), curve);
        }
    }
}
