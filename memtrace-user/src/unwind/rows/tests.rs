use memtrace_common::unwind::{row_cfa_words, row_kind, row_rbp_words, row_rel};
use proptest::prelude::*;

use super::*;

/// A function with one rule at its beginning and perhaps another further on.
type Function = (u32, u32, i64, Option<(u32, i64)>);

fn any_function() -> impl Strategy<Value = Function> {
    (
        0u32..500,
        0u32..60,
        1i64..4,
        prop::option::of((0u32..60, 1i64..4)),
    )
}

fn build(functions: &[Function]) -> RowsBuilder {
    let mut builder = RowsBuilder::default();
    for &(start, size, first, second) in functions {
        builder.begin(start..start + size);
        builder.push(start, Rule::from_rsp(first * 8, 0));
        if let Some((at, rule)) = second {
            builder.push(start + at, Rule::from_rsp(rule * 8, 0));
        }
    }
    builder
}

/// The rule at an address, by the words of [`RowsBuilder::finish`].
fn model(functions: &[Function], rel: u32) -> Rule {
    let mut found: Option<Function> = None;
    for &function in functions
        .iter()
        .filter(|function| function.1 > 0 && function.0 <= rel)
    {
        // Of two with one beginning the first counts.
        if found.is_none_or(|best| function.0 > best.0) {
            found = Some(function);
        }
    }
    let Some((start, size, first, second)) = found.filter(|found| rel < found.0 + found.1) else {
        return Rule::NONE;
    };
    match second {
        Some((at, rule)) if at < size && start + at <= rel => Rule::from_rsp(rule * 8, 0),
        _ => Rule::from_rsp(first * 8, 0),
    }
}

proptest! {
    #[test]
    fn functions_in_any_order_give_sorted_rows(functions in prop::collection::vec(any_function(), 0..20)) {
        let rows = build(&functions).finish();
        prop_assert!(rows.windows(2).all(|pair| row_rel(pair[0]) < row_rel(pair[1])));
        prop_assert!(rows.windows(2).all(|pair| pair[0] as u32 != pair[1] as u32), "no row repeats a rule");
        for rel in 0..600 {
            let expected = model(&functions, rel).at(0);
            let in_force = rows.iter().rev().find(|&&row| row_rel(row) <= rel).map_or(Rule::NONE.at(0), |&row| u64::from(row as u32));
            prop_assert_eq!(in_force, expected, "at {}", rel);
        }
    }

    #[test]
    fn gaps_are_what_no_function_covers(functions in prop::collection::vec(any_function(), 0..20)) {
        let gaps = build(&functions).gaps(10..550);
        for rel in 0..600 {
            let covered = functions.iter().any(|function| (function.0..function.0 + function.1).contains(&rel));
            let in_gap = gaps.iter().filter(|gap| gap.contains(&rel)).count();
            // A function hidden behind one with the same beginning is no cover.
            if !covered || !(10..550).contains(&rel) {
                prop_assert_eq!(in_gap, usize::from((10..550).contains(&rel)));
            }
        }
    }

    #[test]
    fn a_rule_fits_a_row_or_is_unsupported(cfa_off in -100i64..1 << 24, rbp_off in -2000i64..2000) {
        let row = Rule::from_rbp(cfa_off, rbp_off).at(7);
        prop_assert_eq!(row_rel(row), 7);
        if row_kind(row) == ROW_RBP {
            prop_assert_eq!(i64::from(row_cfa_words(row)) * 8, cfa_off);
            prop_assert_eq!(i64::from(row_rbp_words(row)) * 8, rbp_off);
        } else {
            prop_assert_eq!(row_kind(row), ROW_UNSUPPORTED);
            let fits = cfa_off % 8 == 0 && rbp_off % 8 == 0 && (0..8 << 20).contains(&cfa_off) && (-1024..1024).contains(&rbp_off);
            prop_assert!(!fits);
        }
    }
}
