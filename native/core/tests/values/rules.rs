//! Input and output rules: what they pass, change, find and refuse.

use std::sync::Arc;

use proptest::prelude::*;
use tickserve_core::call::{Call, FindingKind, Findings, MAX_FINDINGS, Tensor};
use tickserve_core::plan::{Datatype, OutputRule, OutputRuleKind, Policy, VersionPlan};
use tickserve_core::rules::{InputChecks, OutputChecks};

use crate::support::{NOW_UNIX_NS, bound, call, read_floats, rule, tensor, texts, version};

fn check_inputs(version: VersionPlan, call: &mut Call) -> Result<(), String> {
    let checks = InputChecks::new(Arc::new(version));
    checks
        .check(call, NOW_UNIX_NS, &texts())
        .map_err(|refusal| refusal.message)
}

fn bounded(policies: [Policy; 3]) -> VersionPlan {
    let mut version = version();
    version.input_rules.bounds = policies.map(|policy| bound(-1.0, 1.0, policy)).to_vec();
    version
}

fn broken(findings: &Findings) -> Vec<(&str, Policy, u64)> {
    findings
        .violations
        .iter()
        .map(|broken| (broken.rule.as_str(), broken.policy, broken.times))
        .collect()
}

fn places(findings: &Findings) -> Vec<(FindingKind, u32, u32, &str)> {
    findings
        .kept
        .iter()
        .map(|found| (found.kind, found.row, found.column, found.rule.as_str()))
        .collect()
}

#[test]
fn what_is_not_finite_is_refused_by_its_place() {
    let mut call = call(
        vec![tensor(
            &[2, 3],
            &[0.0, 1.0, 2.0, 3.0, f32::NEG_INFINITY, f32::NAN],
        )],
        2,
    );
    let told = check_inputs(version(), &mut call).unwrap_err();
    assert_eq!(
        told,
        "FEATURE_NOT_FINITE tensor=x row=1 column=1 feature=b value=-inf"
    );
    assert_eq!(broken(&call.findings), [("finite:x", Policy::Reject, 1)]);
}

#[test]
fn a_single_row_without_a_dimension_of_rows_is_named_by_column() {
    let mut version = bounded([Policy::Flag; 3]);
    version.inputs[0].shape = vec![3];
    let mut one = call(vec![tensor(&[3], &[0.0, 5.0, 0.0])], 1);
    assert_eq!(check_inputs(version, &mut one), Ok(()));
    assert_eq!(places(&one.findings), [(FindingKind::Flagged, 0, 1, "bounds:b")]);
}

#[test]
fn values_outside_are_clipped_or_flagged_and_counted() {
    let mut call = call(vec![tensor(&[2, 3], &[5.0, 0.0, -5.0, 0.5, 1.0, 2.0])], 2);
    let version = bounded([Policy::Clip, Policy::Reject, Policy::Flag]);
    assert_eq!(check_inputs(version, &mut call), Ok(()));
    assert_eq!(read_floats(&call.inputs[0]), [1.0, 0.0, -5.0, 0.5, 1.0, 2.0]);
    assert_eq!(
        broken(&call.findings),
        [("bounds:a", Policy::Clip, 1), ("bounds:c", Policy::Flag, 2)]
    );
    assert_eq!(
        places(&call.findings),
        [
            (FindingKind::Clipped, 0, 0, "bounds:a"),
            (FindingKind::Flagged, 0, 2, "bounds:c"),
            (FindingKind::Flagged, 1, 2, "bounds:c")
        ]
    );
}

#[test]
fn a_rejected_value_leaves_everything_else_as_it_was() {
    let values = [5.0, 1.5, 0.0];
    let mut call = call(vec![tensor(&[1, 3], &values)], 1);
    let told = check_inputs(bounded([Policy::Clip, Policy::Reject, Policy::Clip]), &mut call).unwrap_err();
    assert_eq!(
        told,
        "OUT_OF_BOUNDS feature=b row=0 value=1.5 minimum=-1.0 maximum=1.0"
    );
    assert_eq!(broken(&call.findings), [("bounds:b", Policy::Reject, 1)]);
    assert_eq!(read_floats(&call.inputs[0]), values);
}

#[test]
fn an_answer_names_a_bounded_number_of_places() {
    let mut call = call(vec![tensor(&[50, 3], &[9.0; 150])], 50);
    assert_eq!(check_inputs(bounded([Policy::Flag; 3]), &mut call), Ok(()));
    assert_eq!(
        (call.findings.kept.len(), call.findings.left_out),
        (MAX_FINDINGS, 50)
    );
    assert_eq!(broken(&call.findings)[0], ("bounds:a", Policy::Flag, 50));
}

#[test]
fn event_times_are_held_against_the_clock() {
    let aged = |age_ns: i128, policy, required| {
        let mut version = version();
        let rule = &mut version.input_rules.event_time;
        (rule.max_age_s, rule.max_future_s) = (Some(5.0), Some(0.5));
        (rule.policy, rule.required) = (policy, required);
        let mut call = call(vec![tensor(&[1, 3], &[0.0; 3])], 1);
        call.event_time_unix_ns = if age_ns == i128::MAX {
            0
        } else {
            i128::from(NOW_UNIX_NS) - age_ns
        };
        (check_inputs(version, &mut call), call.findings)
    };
    assert_eq!(aged(5_000_000_000, Policy::Reject, true).0, Ok(()));
    let told = aged(6_062_500_000, Policy::Reject, false).0.unwrap_err();
    assert_eq!(told, "EVENT_TIME_OLD age_s=6.062 bound_s=5.0");
    let told = aged(-1_000_000_000, Policy::Reject, false).0.unwrap_err();
    assert_eq!(told, "EVENT_TIME_FUTURE ahead_s=1.0 bound_s=0.5");
    assert_eq!(aged(i128::MAX, Policy::Reject, false).0, Ok(()));
    assert_eq!(
        aged(i128::MAX, Policy::Reject, true).0.unwrap_err(),
        "EVENT_TIME_ABSENT model=m"
    );
    let (passed, findings) = aged(6_000_000_000, Policy::Flag, false);
    assert_eq!(
        (passed, places(&findings)),
        (Ok(()), vec![(FindingKind::Stale, 0, 0, "max_age")])
    );
    assert_eq!(broken(&findings), [("max_age", Policy::Flag, 1)]);
}

fn check_outputs(rules: Vec<OutputRule>, p: Tensor, rows: u64) -> (Result<(), String>, Findings) {
    let checks = OutputChecks::new(Arc::new(VersionPlan {
        output_rules: rules,
        ..version()
    }));
    let total = Tensor {
        datatype: Datatype::Int64,
        shape: vec![rows.cast_signed()],
        ..p.clone()
    };
    let mut findings = Findings::default();
    let checked = checks.check(&[p, total], rows, &mut findings, &texts());
    (checked.map_err(|refusal| refusal.message), findings)
}

#[test]
fn outputs_of_another_shape_are_withheld() {
    for (shape, rows) in [(&[1, 2, 1][..], 1), (&[2, 2], 1), (&[1, 3], 1)] {
        let (checked, findings) = check_outputs(Vec::new(), tensor(shape, &[0.0; 4]), rows);
        assert_eq!(checked.unwrap_err(), "OUTPUT_RULE rule=shape:p version=3 model=m");
        assert_eq!(broken(&findings), [("shape:p", Policy::Reject, 1)]);
    }
}

#[test]
fn each_row_that_breaks_a_rule_is_told_by_its_first_column() {
    let rules = vec![
        rule("range", OutputRuleKind::Range, 0.0, 1.0, Policy::Flag),
        rule("sum", OutputRuleKind::RowSum, 0.9, 1.1, Policy::Flag),
        rule(
            "finite",
            OutputRuleKind::Finite,
            f64::NEG_INFINITY,
            f64::INFINITY,
            Policy::Fallback,
        ),
    ];
    let fine = tensor(&[3, 2], &[0.5, 0.5, 0.0, 1.0, 0.9, 0.1]);
    assert_eq!(
        check_outputs(rules.clone(), fine, 3),
        (Ok(()), Findings::default())
    );
    let (checked, findings) = check_outputs(
        rules.clone(),
        tensor(&[3, 2], &[0.5, 2.0, 0.0, 1.0, -1.0, 2.0]),
        3,
    );
    assert_eq!(checked, Ok(()));
    assert_eq!(
        places(&findings),
        [
            (FindingKind::Flagged, 0, 1, "range"),
            (FindingKind::Flagged, 2, 0, "range"),
            (FindingKind::Flagged, 0, 0, "sum")
        ]
    );
    assert_eq!(
        broken(&findings),
        [("range", Policy::Flag, 2), ("sum", Policy::Flag, 1)]
    );
    let (checked, findings) = check_outputs(rules, tensor(&[1, 2], &[0.5, f32::NAN]), 1);
    assert_eq!(checked.unwrap_err(), "OUTPUT_RULE rule=finite version=3 model=m");
    assert_eq!(broken(&findings).last(), Some(&("finite", Policy::Fallback, 1)));
}

proptest! {
    #[test]
    fn clipped_values_are_inside_their_bounds(
        values in proptest::collection::vec(any::<f32>(), 3..60),
        low in -10.0..0.0_f32,
        high in 0.0..10.0_f32,
    ) {
        let rows = values.len() / 3;
        let values = &values[..3 * rows];
        let mut version = bounded([Policy::Clip; 3]);
        version.input_rules.finite = false;
        version.input_rules.bounds.iter_mut().for_each(|bound| (bound.low, bound.high) = (low.into(), high.into()));
        let mut call = call(vec![tensor(&[rows as i64, 3], values)], rows as u64);
        prop_assert_eq!(check_inputs(version, &mut call), Ok(()));
        for (before, after) in values.iter().zip(read_floats(&call.inputs[0])) {
            prop_assert!(before.is_nan() && after.is_nan() || after == before.clamp(low, high));
        }
    }

    #[test]
    fn a_flagged_rule_counts_exactly_the_rows_that_break_it(
        values in proptest::collection::vec(-2.0..2.0_f32, 2..80),
    ) {
        let rows = values.len() / 2;
        let values = &values[..2 * rows];
        let rules = vec![rule("range", OutputRuleKind::Range, -1.0, 1.0, Policy::Flag)];
        let (_, findings) = check_outputs(rules, tensor(&[rows as i64, 2], values), rows as u64);
        let expected = values.chunks(2).filter(|row| row.iter().any(|value| value.abs() > 1.0)).count() as u64;
        prop_assert_eq!(findings.violations.iter().map(|broken| broken.times).sum::<u64>(), expected);
    }
}
