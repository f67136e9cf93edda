//! What is served, as the control plane says it; the field names are those of server/plan.py.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;

/// The format of these values. The adapter in Python holds the same number, and refuses a wheel that differs.
pub const PLAN_FORMAT: u32 = 4;

/// Datatypes of the Open Inference Protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Datatype {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Fp32,
    Fp64,
    Bytes,
}

/// Why a version answers; numbered as `tickserve.v1.Role`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Role {
    Stable = 1,
    Canary = 2,
    Shadow = 3,
    Previous = 4,
    Fallback = 5,
}

/// A tensor of a schema; -1 is an open dimension.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct TensorSpec {
    pub name: String,
    pub datatype: Datatype,
    pub shape: Vec<i64>,
}

/// What a rule does to a value outside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Policy {
    Reject,
    Clip,
    Flag,
    Fallback,
}

/// Bounds of one feature, as `mlops.package.rules.feature_bounds` gives them: open sides are infinite.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Bound {
    pub low: f64,
    pub high: f64,
    pub policy: Option<Policy>,
}

/// How old or new an event time may be.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct EventTimeRule {
    pub required: bool,
    pub max_age_s: Option<f64>,
    pub max_future_s: Option<f64>,
    pub policy: Policy,
}

/// Input rules of one version. `bounds` are one for each feature, or empty.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct InputRules {
    pub finite: bool,
    pub defaults: BTreeMap<String, f64>,
    pub bounds: Vec<Bound>,
    pub event_time: EventTimeRule,
}

/// What an output rule looks at; limits as `mlops.package.rules.OutputLimits` gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum OutputRuleKind {
    Finite,
    Range,
    RowSum,
}

/// One rule of one output.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct OutputRule {
    pub name: String,
    pub output: String,
    pub kind: OutputRuleKind,
    pub low: f64,
    pub high: f64,
    pub policy: Policy,
}

/// One figure a row out of an output: a column, or the largest one; times scale plus offset.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct ColumnMapping {
    pub output: String,
    pub column: Option<usize>,
    pub scale: f64,
    pub offset: f64,
}

/// Bounds of requests to one version; 0 is none.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Limits {
    pub max_rows: u64,
    pub default_deadline_us: u64,
    pub max_wait_us: u64,
    pub latency_budget_us: u64,
}

/// One verified version of a model.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct VersionPlan {
    pub model: String,
    pub version: String,
    pub digest: Bytes,
    pub model_sha256: String,
    pub model_file: PathBuf,
    pub inputs: Vec<TensorSpec>,
    pub outputs: Vec<TensorSpec>,
    pub feature_names: Vec<String>,
    pub feature_digest: Bytes,
    pub signal: Option<ColumnMapping>,
    pub confidence: Option<ColumnMapping>,
    pub input_rules: InputRules,
    pub output_rules: Vec<OutputRule>,
    pub limits: Limits,
}

/// A share of the routing hashes: up to `upper_bound`, inclusive, and above the one before.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Segment {
    pub upper_bound: u64,
    pub version: String,
    pub role: Role,
}

/// A version that gets copies of live requests, once they are answered, and answers nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shadow {
    /// Its number.
    pub version: String,
    /// How many of the request ids are copied, in 1/10,000.
    pub fraction_bp: u32,
    /// Of the hash that chooses them.
    pub salt: Bytes,
    /// Copied are requests that the split gave to this version; empty: to any but the shadow itself.
    pub of: String,
}

/// A model stopped on purpose.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Halt {
    pub reason: String,
    pub actor: String,
}

/// What the tap calls the versions of a model; empty where there is no tap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TapPlan {
    /// Of the split, as the catalog has it.
    pub split_generation: u64,
    /// The frozen edge of a rollout, that latencies are held against; 0 is none.
    pub latency_edge_ns: u64,
    /// By version.
    pub versions: BTreeMap<String, TappedVersion>,
    /// The block of what the shadow makes of its copies.
    pub shadow: Option<u32>,
}

/// What the tap calls one version. Blocks of counters are absent where none was free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TappedVersion {
    /// Its number in the catalog.
    pub number: u32,
    /// The block of its requests.
    pub block: Option<u32>,
    /// The block of those of them that are copied to the shadow.
    pub compared: Option<u32>,
}

/// One model. `described` holds the encoded answers that are the same for the life of a plan, by call and version
/// ("" is the version that is described when none is named); the control plane encodes them.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct ModelPlan {
    pub name: String,
    /// Number, digest and role of each version; the digest finds what `prepare` made.
    pub versions: BTreeMap<String, (Bytes, Role)>,
    pub salt: Bytes,
    pub segments: Vec<Segment>,
    /// Any client may pin these.
    pub pins: Vec<String>,
    /// The clients of these identities may pin these.
    pub client_pins: Vec<(String, Vec<String>)>,
    pub halt: Option<Halt>,
    pub position_scale: f64,
    pub described: BTreeMap<(Describing, String), Bytes>,
    pub shadow: Option<Shadow>,
    /// The version that answers where another one breaks an output rule of policy `Fallback`; empty: none.
    pub fallback: String,
    pub tap: TapPlan,
}

/// A call that describes, and whose answer depends on the plan alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Describing {
    ModelMetadata,
    ModelConfig,
    GetModel,
}

/// Everything served. `not_loaded` are models without a version yet, with the reason where loading failed.
#[derive(Clone, Debug, PartialEq, Default)]
#[allow(missing_docs)]
pub struct Plan {
    pub generation: u64,
    pub models: BTreeMap<String, ModelPlan>,
    pub not_loaded: BTreeMap<String, String>,
    /// Encoded RepositoryIndexResponse: of every model, and of those that are ready.
    pub repository_index: Bytes,
    pub repository_index_ready: Bytes,
}
