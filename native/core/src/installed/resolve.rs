//! Models of a plan with everything that they name: sessions, counts, and places.

use std::sync::Arc;

use super::{NotPrepared, Place, Serving, ServingModel, Tapped};
use crate::counters::{Identity, Tallies};
use crate::encode::Encoder;
use crate::plan::{ModelPlan, Role, Shadow};
use crate::runtime::Runtime;
use crate::shadow::Shadowing;

/// What a plan is resolved against.
pub(super) struct Parts<R, T> {
    pub(super) runtime: R,
    pub(super) tallies: T,
}

impl<R, T> Parts<R, T>
where
    R: FnMut(&str, &str, &[u8]) -> Option<Arc<Runtime>>,
    T: FnMut(&Identity) -> Arc<Tallies>,
{
    /// One model, which is at this index.
    pub(super) fn model(
        &mut self,
        index: usize,
        model: &ModelPlan,
        generation: u64,
    ) -> Result<ServingModel, NotPrepared> {
        let mut numbers: Vec<&String> = model.versions.keys().collect();
        numbers.sort_by_key(|number| (number.len(), number.as_str()));
        let place_of = |number: &String| {
            let not_prepared = || not_prepared(model, number);
            let version = numbers.iter().position(|known| *known == number);
            Ok(Place {
                model: index,
                version: version.ok_or_else(not_prepared)?,
            })
        };
        let mut versions = Vec::with_capacity(numbers.len());
        for number in &numbers {
            let role = model.versions[*number].1;
            let tapped = Tapped::of(model, number, role);
            versions.push(self.serving(model, role, place_of(number)?, tapped, generation, number)?);
        }
        // What is not loaded is neither shadow nor fallback.
        let is_loaded = |number: &String| model.versions.contains_key(number);
        let has_copies =
            |shadow: &&Shadow| is_loaded(&shadow.version) && (shadow.of.is_empty() || is_loaded(&shadow.of));
        let shadow = model.shadow.as_ref().filter(has_copies);
        let shadow = shadow.map(|shadow| {
            let (place, number) = (place_of(&shadow.version)?, &shadow.version);
            let of = Some(&shadow.of).filter(|of| !of.is_empty());
            let of = of.map(place_of).transpose()?;
            let tapped = Tapped::of(model, number, Role::Shadow);
            let serving = self.serving(model, Role::Shadow, place, tapped, generation, number)?;
            Ok(Shadowing::new(serving, shadow, of))
        });
        let fallback = Some(&model.fallback).filter(|number| is_loaded(number));
        let fallback = fallback.map(|number| {
            let tapped = Tapped::of(model, number, Role::Fallback);
            self.serving(
                model,
                Role::Fallback,
                place_of(number)?,
                tapped,
                generation,
                number,
            )
        });
        let (shadow, fallback) = (shadow.transpose()?, fallback.transpose()?);
        let segments = model.segments.iter();
        let segments = segments.map(|segment| Ok(place_of(&segment.version)?.version));
        let segments = segments.collect::<Result<_, _>>()?;
        let is_stable = |serving: &Serving| serving.role == Role::Stable;
        let described = versions.iter().position(is_stable).unwrap_or(0);
        let client_pins = model.client_pins.iter();
        let client_pins =
            client_pins.map(|(version, clients)| (version.clone(), clients.iter().cloned().collect()));
        Ok(ServingModel {
            versions,
            shadow,
            fallback,
            segments,
            pins: model.pins.iter().cloned().collect(),
            client_pins: client_pins.collect(),
            described,
            plan: model.clone(),
        })
    }

    fn serving(
        &mut self,
        model: &ModelPlan,
        role: Role,
        place: Place,
        tapped: Option<Tapped>,
        generation: u64,
        number: &String,
    ) -> Result<Serving, NotPrepared> {
        let digest = &model.versions[number].0;
        let identity = Identity {
            model: model.name.clone(),
            version: number.clone(),
            role,
        };
        let runtime = (self.runtime)(&model.name, number, digest);
        let runtime = runtime.ok_or_else(|| not_prepared(model, number))?;
        let of = Arc::clone(&runtime.version);
        Ok(Serving {
            runtime,
            role,
            generation,
            tallies: (self.tallies)(&identity),
            encoder: Encoder::new(of, role, generation, model.position_scale),
            place,
            tapped,
        })
    }
}

impl Tapped {
    /// Of a version in a role; a fallback is not counted in blocks.
    fn of(model: &ModelPlan, number: &str, role: Role) -> Option<Self> {
        let tap = &model.tap;
        let found = tap.versions.get(number)?;
        let (block, compared) = match role {
            Role::Shadow => (tap.shadow, None),
            Role::Fallback => (None, None),
            Role::Stable | Role::Canary | Role::Previous => (found.block, found.compared),
        };
        Some(Self {
            version: found.number,
            block,
            compared,
            split_generation: tap.split_generation,
            latency_edge_ns: tap.latency_edge_ns,
        })
    }
}

fn not_prepared(model: &ModelPlan, number: &str) -> NotPrepared {
    NotPrepared {
        model: model.name.clone(),
        version: number.to_owned(),
    }
}
