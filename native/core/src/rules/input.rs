//! Input rules: the event time, finite values, and bounds of features.

use std::sync::Arc;

use super::{numbers, row_width};
use crate::call::{Call, Elements, FindingKind, Findings, Tensor};
use crate::features;
use crate::numbers::{number_at, put_number, with_numbers};
use crate::plan::{Bound, Policy, VersionPlan};
use crate::refusal::Refusal;
use crate::texts::{Fact, Name, Texts, rounded};

/// The input rules of one version.
#[derive(Debug)]
pub struct InputChecks {
    version: Arc<VersionPlan>,
    /// For each input, whether its values must be finite.
    finite: Vec<bool>,
}

impl InputChecks {
    /// Compiles the input rules of a version.
    pub fn new(version: Arc<VersionPlan>) -> Self {
        let finite = version
            .inputs
            .iter()
            .map(|spec| version.input_rules.finite && spec.datatype.is_float());
        Self {
            finite: finite.collect(),
            version,
        }
    }

    /// Applies the rules; may replace inputs by clipped copies. What was broken is in the call's findings, also where
    /// the call is refused.
    pub fn check(&self, call: &mut Call, now_unix_ns: i64, texts: &Texts) -> Result<(), Refusal> {
        if !features::ON {
            return Ok(());
        }
        if call.event_time_unix_ns != 0 || self.version.input_rules.event_time.required {
            self.check_event_time(call, now_unix_ns, texts)?;
        }
        for (index, _) in self.finite.iter().enumerate().filter(|(_, must_be)| **must_be) {
            let Some(tensor) = call.inputs.get(index) else {
                break;
            };
            if !with_numbers!(tensor.datatype, numbers(tensor), values => are_finite(values)) {
                return Err(self.not_finite(index, &call.inputs[index], &mut call.findings, texts));
            }
        }
        let bounds = &self.version.input_rules.bounds;
        if let Some(tensor) = call.inputs.first_mut().filter(|_| !bounds.is_empty()) {
            let row_size = bounds.len() * tensor.datatype.size().unwrap_or(1);
            let is_inside =
                |row: &[u8]| with_numbers!(tensor.datatype, row, values => are_inside(values, bounds));
            if !numbers(tensor).chunks(row_size).all(is_inside) {
                return self.out_of_bounds(tensor, &mut call.received, &mut call.findings, texts);
            }
        }
        Ok(())
    }

    fn check_event_time(&self, call: &mut Call, now_unix_ns: i64, texts: &Texts) -> Result<(), Refusal> {
        let rule = &self.version.input_rules.event_time;
        let age_s = (i128::from(now_unix_ns) - call.event_time_unix_ns) as f64 / 1e9;
        let model = Fact::from(&self.version.model);
        let (broken, text, facts) = if call.event_time_unix_ns == 0 {
            ("event_time", Name::EventTimeAbsent, vec![("model", model)])
        } else if let Some(bound_s) = rule.max_age_s.filter(|bound_s| age_s > *bound_s) {
            let facts = vec![("age_s", rounded(age_s).into()), ("bound_s", bound_s.into())];
            ("max_age", Name::EventTimeOld, facts)
        } else if let Some(bound_s) = rule.max_future_s.filter(|bound_s| -age_s > *bound_s) {
            let facts = vec![("ahead_s", rounded(-age_s).into()), ("bound_s", bound_s.into())];
            ("max_future", Name::EventTimeFuture, facts)
        } else {
            return Ok(());
        };
        call.findings.count(broken, rule.policy, 1);
        if rule.policy == Policy::Reject {
            return Err(texts.refuse(text, "event_time_unix_ns", &facts));
        }
        call.findings.add(FindingKind::Stale, 0, 0, || broken.to_owned());
        Ok(())
    }

    fn not_finite(&self, index: usize, tensor: &Tensor, findings: &mut Findings, texts: &Texts) -> Refusal {
        let (name, data) = (&self.version.inputs[index].name, numbers(tensor));
        let (place, count) = with_numbers!(tensor.datatype, data, values => {
            let count = values.len();
            ({ values }.position(|value| !value.is_finite()).unwrap_or_default(), count)
        });
        let width = self.width(count, tensor);
        let (row, column) = (place / width, place % width);
        findings.count(&format!("finite:{name}"), Policy::Reject, 1);
        let value = number_at(tensor.datatype, data, place);
        let mut facts = vec![
            ("tensor", name.into()),
            ("row", row.into()),
            ("column", column.into()),
            ("value", value.into()),
        ];
        let features = &self.version.feature_names;
        if features.is_empty() {
            return texts.refuse(Name::NotFinite, name, &facts);
        }
        let feature = &features[column % features.len()];
        facts.push(("feature", feature.into()));
        texts.refuse(Name::FeatureNotFinite, feature, &facts)
    }

    fn out_of_bounds(
        &self,
        tensor: &mut Tensor,
        received: &mut Option<Elements>,
        findings: &mut Findings,
        texts: &Texts,
    ) -> Result<(), Refusal> {
        let (names, bounds) = (&self.version.feature_names, &self.version.input_rules.bounds);
        let (datatype, data) = (tensor.datatype, numbers(tensor));
        let count = data.len() / datatype.size().unwrap_or(1);
        let width = self.width(count, tensor);
        let rejected = with_numbers!(datatype, data, values => {
            { values }.zip(bounds.iter().cycle()).position(|(value, bound)| {
                bound.policy == Some(Policy::Reject) && is_outside(value, bound)
            })
        });
        if let Some(place) = rejected {
            let (name, bound) = (&names[place % bounds.len()], &bounds[place % bounds.len()]);
            findings.count(&format!("bounds:{name}"), Policy::Reject, 1);
            let facts = [
                ("feature", name.into()),
                ("row", (place / width).into()),
                ("value", number_at(datatype, data, place).into()),
                ("minimum", bound.low.into()),
                ("maximum", bound.high.into()),
            ];
            return Err(texts.refuse(Name::OutOfBounds, name, &facts));
        }
        let mut times = vec![0; bounds.len()];
        let mut clipped = None;
        with_numbers!(datatype, data, values => {
            for (place, (value, bound)) in values.zip(bounds.iter().cycle()).enumerate() {
                if !is_outside(value, bound) {
                    continue;
                }
                let feature = place % bounds.len();
                times[feature] += 1;
                let mut kind = FindingKind::Flagged;
                if bound.policy == Some(Policy::Clip) {
                    kind = FindingKind::Clipped;
                    let copy = clipped.get_or_insert_with(|| data.to_vec());
                    put_number(datatype, copy, place, value.max(bound.low).min(bound.high));
                }
                findings.add(kind, place / width, place % width, || format!("bounds:{}", names[feature]));
            }
        });
        for ((name, bound), times) in names.iter().zip(bounds).zip(times) {
            if times > 0 {
                findings.count(
                    &format!("bounds:{name}"),
                    bound.policy.unwrap_or(Policy::Flag),
                    times,
                );
            }
        }
        if let Some(clipped) = clipped {
            *received = Some(std::mem::replace(
                &mut tensor.elements,
                Elements::Numbers(clipped.into()),
            ));
        }
        Ok(())
    }

    /// Elements a row; features without a dimension of rows are one row.
    fn width(&self, count: usize, tensor: &Tensor) -> usize {
        if tensor.shape.len() == 1 && !self.version.feature_names.is_empty() {
            return count.max(1);
        }
        row_width(count, tensor)
    }
}

// Both look at everything, without a way out, so that the compiler can do many elements at once.

fn are_finite(values: impl Iterator<Item = f64>) -> bool {
    values.fold(true, |so_far, value| so_far & value.is_finite())
}

fn are_inside(values: impl Iterator<Item = f64>, bounds: &[Bound]) -> bool {
    values
        .zip(bounds)
        .fold(true, |so_far, (value, bound)| so_far & !is_outside(value, bound))
}

/// NaN is inside: the rule for finite values speaks of it.
fn is_outside(value: f64, bound: &Bound) -> bool {
    (value < bound.low) | (value > bound.high)
}
