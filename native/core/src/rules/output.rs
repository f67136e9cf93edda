//! Output rules: declared shapes, finite values, ranges and sums of rows.

use std::sync::Arc;

use super::{numbers, row_width, withheld};
use crate::call::{FindingKind, Findings, Tensor};
use crate::features;
use crate::numbers::with_numbers;
use crate::plan::{OutputRule, OutputRuleKind, Policy, TensorSpec, VersionPlan};
use crate::refusal::Refusal;
use crate::texts::Texts;

/// The output rules of one version.
#[derive(Debug)]
pub struct OutputChecks {
    version: Arc<VersionPlan>,
    /// The rules of each output that has some.
    outputs: Vec<(usize, Screen, Vec<OutputRule>)>,
    may_fall_back: bool,
}

/// What every value and row sum must be for an output to break no rule.
#[derive(Clone, Copy, Debug)]
struct Screen {
    low: f64,
    high: f64,
    sum_low: f64,
    sum_high: f64,
}

impl OutputChecks {
    /// Compiles the output rules of a version.
    pub fn new(version: Arc<VersionPlan>) -> Self {
        let of = |spec: &TensorSpec| -> Vec<_> {
            version
                .output_rules
                .iter()
                .filter(|rule| rule.output == spec.name)
                .cloned()
                .collect()
        };
        let outputs = version
            .outputs
            .iter()
            .map(of)
            .enumerate()
            .filter(|(_, rules)| !rules.is_empty());
        let outputs = outputs
            .map(|(index, rules)| (index, Screen::new(&rules), rules))
            .collect();
        let may_fall_back = version
            .output_rules
            .iter()
            .any(|rule| rule.policy == Policy::Fallback);
        Self {
            version,
            outputs,
            may_fall_back,
        }
    }

    /// Whether another version may have to answer.
    pub fn may_fall_back(&self) -> bool {
        self.may_fall_back
    }

    /// Holds the outputs against the schema and the rules. What was broken is in the findings, also where the answer
    /// is refused.
    pub fn check(
        &self,
        outputs: &[Tensor],
        rows: u64,
        findings: &mut Findings,
        texts: &Texts,
    ) -> Result<(), Refusal> {
        if !features::ON {
            return Ok(());
        }
        for (spec, output) in self.version.outputs.iter().zip(outputs) {
            if !fits(&spec.shape, &output.shape, rows) {
                let rule = format!("shape:{}", spec.name);
                return Err(withheld(
                    &self.version,
                    findings,
                    &rule,
                    Policy::Reject,
                    &spec.name,
                    texts,
                ));
            }
        }
        for (index, screen, rules) in &self.outputs {
            let output = &outputs[*index];
            let data = numbers(output);
            let is_fine = with_numbers!(output.datatype, data, values => {
                let width = row_width(values.len(), output);
                screen.passes(values, width)
            });
            if is_fine {
                continue;
            }
            for rule in rules {
                self.apply(rule, output, findings, texts)?;
            }
        }
        Ok(())
    }

    fn apply(
        &self,
        rule: &OutputRule,
        output: &Tensor,
        findings: &mut Findings,
        texts: &Texts,
    ) -> Result<(), Refusal> {
        let broken = with_numbers!(output.datatype, numbers(output), values => {
            let width = row_width(values.len(), output);
            broken(rule, values, width)
        });
        if broken.is_empty() {
            return Ok(());
        }
        if rule.policy != Policy::Flag {
            findings.withheld_at = broken.first().map(|&(row, column)| (row as u32, column as u32));
            return Err(withheld(
                &self.version,
                findings,
                &rule.name,
                rule.policy,
                &rule.output,
                texts,
            ));
        }
        findings.count(&rule.name, rule.policy, broken.len() as u64);
        for (row, column) in broken {
            findings.add(FindingKind::Flagged, row, column, || rule.name.clone());
        }
        Ok(())
    }
}

impl Screen {
    fn new(rules: &[OutputRule]) -> Self {
        let mut screen = Self {
            low: f64::MIN,
            high: f64::MAX,
            sum_low: f64::MIN,
            sum_high: f64::MAX,
        };
        for rule in rules {
            let (low, high) = match rule.kind {
                OutputRuleKind::Finite => continue,
                OutputRuleKind::Range => (&mut screen.low, &mut screen.high),
                OutputRuleKind::RowSum => (&mut screen.sum_low, &mut screen.sum_high),
            };
            *low = low.max(rule.low);
            *high = high.min(rule.high);
        }
        screen
    }

    fn passes(&self, mut values: impl Iterator<Item = f64>, width: usize) -> bool {
        let (mut sum, mut left) = (0.0, width);
        values.all(|value| {
            sum += value;
            left -= 1;
            let mut is_fine = self.low <= value && value <= self.high;
            if left == 0 {
                is_fine &= self.sum_low <= sum && sum <= self.sum_high;
                (sum, left) = (0.0, width);
            }
            is_fine
        })
    }
}

/// The rows that break a rule, each with the first column there; NaN breaks every rule.
fn broken(rule: &OutputRule, values: impl Iterator<Item = f64>, width: usize) -> Vec<(usize, usize)> {
    let mut found: Vec<(usize, usize)> = Vec::new();
    let is_inside = |value: f64| rule.low <= value && value <= rule.high;
    let mut sum = 0.0;
    for (place, value) in values.enumerate() {
        let (row, column) = (place / width, place % width);
        // Left to right, as the other implementations add, so that an answer at the edge is judged the same.
        sum = if column == 0 { value } else { sum + value };
        let broken = match rule.kind {
            OutputRuleKind::Finite => (!value.is_finite()).then_some(column),
            OutputRuleKind::Range => (!is_inside(value)).then_some(column),
            OutputRuleKind::RowSum => (column + 1 == width && !is_inside(sum)).then_some(0),
        };
        if let Some(column) = broken
            && found.last().is_none_or(|(last, _)| *last != row)
        {
            found.push((row, column));
        }
    }
    found
}

/// Whether an output has the declared shape, and a row for each row asked for where its rows are open.
fn fits(declared: &[i64], shape: &[i64], rows: u64) -> bool {
    if shape.len() != declared.len() {
        return false;
    }
    if let (Some(-1), Some(found)) = (declared.first(), shape.first())
        && found.unsigned_abs() != rows
    {
        return false;
    }
    shape
        .iter()
        .zip(declared)
        .all(|(size, expected)| size == expected || *expected == -1)
}
