//! The installed plan as requests read it: every name resolved, every version with its sessions and its counts.

mod resolve;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use thiserror::Error;

use self::resolve::Parts;
use crate::counters::{Identity, Tallies};
use crate::decode::Target;
use crate::encode::Encoder;
use crate::features;
use crate::plan::{ModelPlan, Plan, Role};
use crate::reaper::Retired;
use crate::refusal::Refusal;
use crate::refuse;
use crate::routing;
use crate::runtime::Runtime;
use crate::shadow::Shadowing;
use crate::texts::Texts;

/// A plan that names what is not prepared.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("version {version} of model '{model}' is in the plan and not prepared")]
pub struct NotPrepared {
    /// Its name.
    pub model: String,
    /// Its number.
    pub version: String,
}

/// One version in one role under one plan.
#[derive(Debug)]
pub struct Serving {
    /// What it runs with.
    pub runtime: Arc<Runtime>,
    /// Why it answers.
    pub role: Role,
    /// Of the plan.
    pub generation: u64,
    /// What it has done, by worker.
    pub tallies: Arc<Tallies>,
    /// Writes its answers.
    pub encoder: Encoder,
    /// Where it is in the installed plan.
    pub place: Place,
    /// What the tap calls it; None where there is no tap, or no number for it.
    pub tapped: Option<Tapped>,
}

/// What the tap writes of a version under one plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tapped {
    /// Its number in the catalog.
    pub version: u32,
    /// Its block of counters; without one it is not counted there.
    pub block: Option<u32>,
    /// The block of those of its requests that are copied to the shadow.
    pub compared: Option<u32>,
    /// Of the split, as the catalog has it.
    pub split_generation: u64,
    /// What latencies are held against beside the budget; 0 is none.
    pub latency_edge_ns: u64,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug)]
pub struct Routed<'a> {
    /// The version that answers.
    pub serving: &'a Serving,
    /// What the split went by, where it had to.
    place: Option<routing::Place>,
}

/// Where a version is in an installed plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    model: usize,
    version: usize,
}

/// One model. The versions are in the order of their numbers.
#[derive(Debug)]
pub struct ServingModel {
    /// As the control plane said it.
    pub plan: ModelPlan,
    /// All of its versions.
    pub versions: Vec<Serving>,
    /// What gets copies of its requests.
    pub shadow: Option<Shadowing>,
    fallback: Option<Serving>,
    /// The index of the version of each segment.
    segments: Vec<usize>,
    pins: BTreeSet<String>,
    /// By version: the clients that may pin it, where not every client may.
    client_pins: BTreeMap<String, BTreeSet<String>>,
    described: usize,
}

/// A plan with everything a request needs; replaced whole.
#[derive(Debug, Default)]
pub struct Installed {
    /// As the control plane said it.
    pub plan: Plan,
    /// In the order of their names.
    pub models: Vec<ServingModel>,
    by_name: BTreeMap<String, usize>,
}

impl Retired for Installed {
    /// The sessions are retired apart.
    fn resident_bytes(&self) -> u64 {
        0
    }
}

impl Installed {
    /// Resolves a plan against what is prepared and the counts that outlive it.
    pub fn resolve(
        plan: Plan,
        runtime: impl FnMut(&str, &str, &[u8]) -> Option<Arc<Runtime>>,
        tallies: impl FnMut(&Identity) -> Arc<Tallies>,
    ) -> Result<Self, NotPrepared> {
        let mut parts = Parts { runtime, tallies };
        let mut models = Vec::with_capacity(plan.models.len());
        let mut by_name = BTreeMap::new();
        for (name, model) in &plan.models {
            by_name.insert(name.clone(), models.len());
            models.push(parts.model(models.len(), model, plan.generation)?);
        }
        Ok(Self {
            plan,
            models,
            by_name,
        })
    }

    /// The version at a place of this same plan.
    pub fn at(&self, place: Place) -> &Serving {
        &self.models[place.model].versions[place.version]
    }

    /// The shadow of the model that this place is of.
    pub fn shadow_at(&self, place: Place) -> Option<&Shadowing> {
        self.models[place.model].shadow.as_ref()
    }

    /// The version that answers where this one breaks an output rule of that policy.
    pub fn fallback_of(&self, serving: &Serving) -> Option<&Serving> {
        let fallback = self.models[serving.place.model].fallback.as_ref()?;
        let is_other = fallback.place != serving.place;
        (is_other && serving.runtime.output_checks.may_fall_back()).then_some(fallback)
    }

    /// The model of this name.
    pub fn model(&self, name: &str) -> Option<&ServingModel> {
        self.by_name.get(name).map(|&index| &self.models[index])
    }

    /// Whether the name is one of the plan's, served or not.
    pub fn knows(&self, name: &str) -> bool {
        self.by_name.contains_key(name) || self.plan.not_loaded.contains_key(name)
    }

    /// The version that answers: the one that the client may pin, or the one whose segment holds the key's hash.
    pub fn route(&self, texts: &Texts, target: &Target<'_>, client: &str) -> Result<Routed<'_>, Refusal> {
        let Target {
            model: name,
            version: pin,
            key,
        } = *target;
        let model = self.model(name).ok_or_else(|| self.unknown_model(texts, name))?;
        if !features::ON {
            let first = model
                .versions
                .first()
                .map(|serving| Routed { serving, place: None });
            return first.ok_or_else(|| refuse::loading(texts, name));
        }
        if let Some(halt) = &model.plan.halt {
            return Err(refuse::halted(texts, name, halt));
        }
        if !pin.is_empty() {
            let serving = model
                .version(pin)
                .ok_or_else(|| model.unknown_version(texts, pin))?;
            return if model.may_pin(pin, client) {
                Ok(Routed { serving, place: None })
            } else {
                Err(refuse::pin_refused(texts, name, pin))
            };
        }
        let place = (model.segments.len() != 1).then(|| routing::place(&model.plan.salt, key.as_bytes()));
        let segment = place.map_or(Some(0), |place| {
            routing::segment(&model.plan.segments, place.hash)
        });
        // A split ends at the largest hash, so every hash has a segment; one of nobody is like a model not loaded.
        let index = segment.and_then(|segment| model.segments.get(segment));
        index
            .map(|&index| Routed {
                serving: &model.versions[index],
                place,
            })
            .ok_or_else(|| refuse::loading(texts, name))
    }

    /// The key bucket of a request that was routed by this key.
    pub fn key_bucket(&self, routed: Routed<'_>, key: &str) -> u8 {
        let salt = &self.models[routed.serving.place.model].plan.salt;
        let place = routed
            .place
            .unwrap_or_else(|| routing::place(salt, key.as_bytes()));
        place.bucket
    }

    /// The version to describe: the named one, or the stable one. Halted models are described too.
    pub fn find(
        &self,
        texts: &Texts,
        name: &str,
        version: &str,
    ) -> Result<(&ServingModel, &Serving), Refusal> {
        let model = self.model(name).ok_or_else(|| self.unknown_model(texts, name))?;
        let serving = if version.is_empty() {
            model.versions.get(model.described)
        } else {
            model.version(version)
        };
        serving
            .map(|serving| (model, serving))
            .ok_or_else(|| model.unknown_version(texts, version))
    }

    fn unknown_model(&self, texts: &Texts, name: &str) -> Refusal {
        match self.plan.not_loaded.get(name) {
            Some(why) if why.is_empty() => refuse::loading(texts, name),
            Some(why) => refuse::not_loaded(texts, name, why),
            None => refuse::unknown_model(texts, name, &join(self.by_name.keys())),
        }
    }
}

impl ServingModel {
    /// The version of this number.
    pub fn version(&self, number: &str) -> Option<&Serving> {
        self.versions
            .iter()
            .find(|serving| serving.runtime.version.version == number)
    }

    /// Whether requests may go to this version: the split names it, or somebody may pin it. One that is only kept
    /// warm takes none.
    pub fn answers(&self, number: &str) -> bool {
        self.version(number).is_some()
            && (self.pins.contains(number)
                || self.client_pins.contains_key(number)
                || self.plan.segments.iter().any(|segment| segment.version == number))
    }

    fn may_pin(&self, version: &str, client: &str) -> bool {
        let is_client_allowed = |clients: &BTreeSet<String>| clients.contains(client);
        self.pins.contains(version) || self.client_pins.get(version).is_some_and(is_client_allowed)
    }

    fn unknown_version(&self, texts: &Texts, number: &str) -> Refusal {
        let known = join(
            self.versions
                .iter()
                .map(|serving| &serving.runtime.version.version),
        );
        refuse::unknown_version(texts, &self.plan.name, number, &known)
    }
}

fn join<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.map(String::as_str).collect::<Vec<_>>().join(", ")
}
