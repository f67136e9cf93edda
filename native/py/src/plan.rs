//! A plan as Python hands it over: dictionaries with the names of server/plan.py, read into the core's values.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use tickserve_core::plan;

#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct TensorSpec {
    name: String,
    datatype: String,
    shape: Vec<i64>,
}

#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Bound {
    low: f64,
    high: f64,
    policy: Option<String>,
}

#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct EventTimeRule {
    required: bool,
    max_age_s: Option<f64>,
    max_future_s: Option<f64>,
    policy: String,
}

#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct InputRules {
    finite: bool,
    defaults: BTreeMap<String, f64>,
    bounds: Vec<Bound>,
    event_time: EventTimeRule,
}

#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct OutputRule {
    name: String,
    output: String,
    kind: String,
    low: f64,
    high: f64,
    policy: String,
}

#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct ColumnMapping {
    output: String,
    column: Option<usize>,
    scale: f64,
    offset: f64,
}

#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Limits {
    max_rows: u64,
    default_deadline_us: u64,
    max_wait_us: u64,
    latency_budget_us: u64,
}

/// One version to prepare.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct VersionPlan {
    model: String,
    version: String,
    digest: Vec<u8>,
    model_sha256: String,
    model_file: PathBuf,
    inputs: Vec<TensorSpec>,
    outputs: Vec<TensorSpec>,
    feature_names: Vec<String>,
    feature_digest: Vec<u8>,
    signal: Option<ColumnMapping>,
    confidence: Option<ColumnMapping>,
    input_rules: InputRules,
    output_rules: Vec<OutputRule>,
    limits: Limits,
}

#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Halt {
    reason: String,
    actor: String,
}

#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Shadow {
    version: String,
    fraction_bp: u32,
    salt: Vec<u8>,
    of: String,
}

#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct ModelPlan {
    /// (version, digest, role)
    versions: Vec<(String, Vec<u8>, u8)>,
    salt: Vec<u8>,
    /// (upper bound, version, role)
    segments: Vec<(u64, String, u8)>,
    pins: Vec<String>,
    /// (version, identities of clients)
    client_pins: Vec<(String, Vec<String>)>,
    halt: Option<Halt>,
    position_scale: f64,
    /// (call, version or "", encoded answer)
    described: Vec<(String, String, Vec<u8>)>,
    shadow: Option<Shadow>,
    fallback: String,
    tap: TapPlan,
}

#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct TapPlan {
    split_generation: u64,
    latency_edge_ns: u64,
    /// (version, number in the catalog, block of counters, block of what is compared)
    versions: Vec<(String, u32, Option<u32>, Option<u32>)>,
    shadow: Option<u32>,
}

/// Everything to serve.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct Plan {
    generation: u64,
    models: BTreeMap<String, ModelPlan>,
    not_loaded: BTreeMap<String, String>,
    repository_index: Vec<u8>,
    repository_index_ready: Vec<u8>,
}

impl TryFrom<VersionPlan> for plan::VersionPlan {
    type Error = PyErr;

    fn try_from(version: VersionPlan) -> PyResult<Self> {
        Ok(Self {
            model: version.model,
            version: version.version,
            digest: version.digest.into(),
            model_sha256: version.model_sha256,
            model_file: version.model_file,
            inputs: tensors(version.inputs)?,
            outputs: tensors(version.outputs)?,
            feature_names: version.feature_names,
            feature_digest: version.feature_digest.into(),
            signal: version.signal.map(Into::into),
            confidence: version.confidence.map(Into::into),
            input_rules: version.input_rules.try_into()?,
            output_rules: version
                .output_rules
                .into_iter()
                .map(TryInto::try_into)
                .collect::<PyResult<_>>()?,
            limits: plan::Limits {
                max_rows: version.limits.max_rows,
                default_deadline_us: version.limits.default_deadline_us,
                max_wait_us: version.limits.max_wait_us,
                latency_budget_us: version.limits.latency_budget_us,
            },
        })
    }
}

impl TryFrom<Plan> for plan::Plan {
    type Error = PyErr;

    fn try_from(given: Plan) -> PyResult<Self> {
        let models = given
            .models
            .into_iter()
            .map(|(name, model)| Ok((name.clone(), model_plan(name, model)?)))
            .collect::<PyResult<_>>()?;
        Ok(Self {
            generation: given.generation,
            models,
            not_loaded: given.not_loaded,
            repository_index: given.repository_index.into(),
            repository_index_ready: given.repository_index_ready.into(),
        })
    }
}

fn model_plan(name: String, model: ModelPlan) -> PyResult<plan::ModelPlan> {
    Ok(plan::ModelPlan {
        name,
        versions: model
            .versions
            .into_iter()
            .map(|(version, digest, role)| Ok((version, (Bytes::from(digest), self::role(role)?))))
            .collect::<PyResult<_>>()?,
        salt: model.salt.into(),
        segments: model
            .segments
            .into_iter()
            .map(|(upper_bound, version, role)| {
                Ok(plan::Segment {
                    upper_bound,
                    version,
                    role: self::role(role)?,
                })
            })
            .collect::<PyResult<_>>()?,
        pins: model.pins,
        client_pins: model.client_pins,
        halt: model.halt.map(|halt| plan::Halt {
            reason: halt.reason,
            actor: halt.actor,
        }),
        position_scale: model.position_scale,
        described: model
            .described
            .into_iter()
            .map(|(call, version, answer)| Ok(((describing(&call)?, version), answer.into())))
            .collect::<PyResult<_>>()?,
        shadow: model.shadow.map(|shadow| plan::Shadow {
            version: shadow.version,
            fraction_bp: shadow.fraction_bp,
            salt: shadow.salt.into(),
            of: shadow.of,
        }),
        fallback: model.fallback,
        tap: model.tap.into(),
    })
}

impl From<TapPlan> for plan::TapPlan {
    fn from(tap: TapPlan) -> Self {
        let versions = tap.versions.into_iter();
        let versions = versions.map(|(version, number, block, compared)| {
            let tapped = plan::TappedVersion {
                number,
                block,
                compared,
            };
            (version, tapped)
        });
        Self {
            split_generation: tap.split_generation,
            latency_edge_ns: tap.latency_edge_ns,
            versions: versions.collect(),
            shadow: tap.shadow,
        }
    }
}

impl From<ColumnMapping> for plan::ColumnMapping {
    fn from(mapping: ColumnMapping) -> Self {
        Self {
            output: mapping.output,
            column: mapping.column,
            scale: mapping.scale,
            offset: mapping.offset,
        }
    }
}

impl TryFrom<InputRules> for plan::InputRules {
    type Error = PyErr;

    fn try_from(rules: InputRules) -> PyResult<Self> {
        Ok(Self {
            finite: rules.finite,
            defaults: rules.defaults,
            bounds: rules
                .bounds
                .into_iter()
                .map(|bound| {
                    let policy = bound.policy.as_deref().map(policy).transpose()?;
                    Ok(plan::Bound {
                        low: bound.low,
                        high: bound.high,
                        policy,
                    })
                })
                .collect::<PyResult<_>>()?,
            event_time: plan::EventTimeRule {
                required: rules.event_time.required,
                max_age_s: rules.event_time.max_age_s,
                max_future_s: rules.event_time.max_future_s,
                policy: policy(&rules.event_time.policy)?,
            },
        })
    }
}

impl TryFrom<OutputRule> for plan::OutputRule {
    type Error = PyErr;

    fn try_from(rule: OutputRule) -> PyResult<Self> {
        let kind = match rule.kind.as_str() {
            "finite" => plan::OutputRuleKind::Finite,
            "range" => plan::OutputRuleKind::Range,
            "row_sum" => plan::OutputRuleKind::RowSum,
            other => return Err(unknown("kind of output rule", other)),
        };
        let policy = policy(&rule.policy)?;
        Ok(Self {
            name: rule.name,
            output: rule.output,
            kind,
            low: rule.low,
            high: rule.high,
            policy,
        })
    }
}

fn tensors(specs: Vec<TensorSpec>) -> PyResult<Vec<plan::TensorSpec>> {
    specs
        .into_iter()
        .map(|spec| {
            Ok(plan::TensorSpec {
                name: spec.name,
                datatype: datatype(&spec.datatype)?,
                shape: spec.shape,
            })
        })
        .collect()
}

const DATATYPES: [(&str, plan::Datatype); 13] = [
    ("BOOL", plan::Datatype::Bool),
    ("UINT8", plan::Datatype::Uint8),
    ("UINT16", plan::Datatype::Uint16),
    ("UINT32", plan::Datatype::Uint32),
    ("UINT64", plan::Datatype::Uint64),
    ("INT8", plan::Datatype::Int8),
    ("INT16", plan::Datatype::Int16),
    ("INT32", plan::Datatype::Int32),
    ("INT64", plan::Datatype::Int64),
    ("FP16", plan::Datatype::Fp16),
    ("FP32", plan::Datatype::Fp32),
    ("FP64", plan::Datatype::Fp64),
    ("BYTES", plan::Datatype::Bytes),
];

/// The datatype of this name.
pub fn datatype(name: &str) -> PyResult<plan::Datatype> {
    let found = DATATYPES.iter().find(|(known, _)| *known == name);
    found
        .map(|(_, datatype)| *datatype)
        .ok_or_else(|| unknown("datatype", name))
}

/// The name of a datatype.
pub fn datatype_name(datatype: plan::Datatype) -> &'static str {
    let found = DATATYPES.iter().find(|(_, known)| *known == datatype);
    found.map_or("", |(name, _)| name)
}

fn policy(name: &str) -> PyResult<plan::Policy> {
    Ok(match name {
        "reject" => plan::Policy::Reject,
        "clip" => plan::Policy::Clip,
        "flag" => plan::Policy::Flag,
        "fallback" => plan::Policy::Fallback,
        other => return Err(unknown("policy", other)),
    })
}

fn role(number: u8) -> PyResult<plan::Role> {
    Ok(match number {
        1 => plan::Role::Stable,
        2 => plan::Role::Canary,
        3 => plan::Role::Shadow,
        4 => plan::Role::Previous,
        5 => plan::Role::Fallback,
        other => return Err(unknown("role", &other.to_string())),
    })
}

fn describing(call: &str) -> PyResult<plan::Describing> {
    Ok(match call {
        "ModelMetadata" => plan::Describing::ModelMetadata,
        "ModelConfig" => plan::Describing::ModelConfig,
        "GetModel" => plan::Describing::GetModel,
        other => return Err(unknown("describing call", other)),
    })
}

fn unknown(what: &str, value: &str) -> PyErr {
    PyValueError::new_err(format!("unknown {what} {value:?}"))
}
