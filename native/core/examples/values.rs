//! Reads requests and outputs, and prints what comes of them, so that another engine can be held against this one.
//!
//! Standard input holds length-prefixed frames (4 bytes, little-endian): the table of texts, then versions and cases, or
//! descriptors and reflection requests, by their first byte. Standard output holds one frame for each case or request.

use std::error::Error;
use std::fmt::Write as _;
use std::io::{BufReader, BufWriter, Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use tickserve_core::call::{Call, Elements, Findings, Tensor};
use tickserve_core::decode::{Parsed, Schema, parse};
use tickserve_core::encode::{Encoder, Framing, refused};
use tickserve_core::plan::{
    Bound, ColumnMapping, Datatype, EventTimeRule, InputRules, Limits, OutputRule, OutputRuleKind, Policy,
    Role, TensorSpec, VersionPlan,
};
use tickserve_core::reflection::Reflection;
use tickserve_core::refusal::Refusal;
use tickserve_core::rules::{InputChecks, OutputChecks};
use tickserve_core::service::Protocol;
use tickserve_core::texts::{Entry, MAX_ID_BYTES, Texts, bounded};

type Fault = Box<dyn Error>;

const DRAWN: &str = "drawn-1";
const DATATYPES: [Datatype; 13] = [
    Datatype::Bool,
    Datatype::Uint8,
    Datatype::Uint16,
    Datatype::Uint32,
    Datatype::Uint64,
    Datatype::Int8,
    Datatype::Int16,
    Datatype::Int32,
    Datatype::Int64,
    Datatype::Fp16,
    Datatype::Fp32,
    Datatype::Fp64,
    Datatype::Bytes,
];
const PROTOCOLS: [Protocol; 4] = [
    Protocol::Infer,
    Protocol::Predict,
    Protocol::InferStream,
    Protocol::PredictStream,
];

/// Everything that is made of a version once.
struct Compiled {
    schema: Schema,
    inputs: InputChecks,
    outputs: OutputChecks,
    encoder: Encoder,
}

fn main() -> Result<(), Fault> {
    let (mut input, mut output) = (
        BufReader::new(std::io::stdin()),
        BufWriter::new(std::io::stdout()),
    );
    let table = frame(&mut input)?.ok_or("no table of texts")?;
    let texts = Arc::new(Texts::new(std::str::from_utf8(&table)?.split('\x1e').map(entry))?);
    let (mut descriptors, mut services) = (Vec::new(), Vec::new());
    let mut versions = Vec::new();
    while let Some(frame) = frame(&mut input)? {
        let (kind, rest) = frame.split_first().ok_or("an empty frame")?;
        match kind {
            b'v' => {
                let version = Arc::new(version(std::str::from_utf8(rest)?)?);
                versions.push(Compiled {
                    schema: Schema::new(version.clone()),
                    inputs: InputChecks::new(version.clone()),
                    outputs: OutputChecks::new(version.clone()),
                    encoder: Encoder::new(version, Role::Canary, 7, 0.5),
                });
                continue;
            }
            b'd' => {
                descriptors.push(Bytes::copy_from_slice(rest));
                continue;
            }
            b's' => {
                services.push(String::from_utf8(rest.to_vec())?);
                continue;
            }
            b'r' => {
                let reflection = Reflection::new(services.clone(), descriptors.clone(), texts.clone())?;
                let mut told = String::new();
                match reflection.answer(rest) {
                    Ok(answer) => writeln!(told, "A|{}", hex(&answer))?,
                    Err(refusal) => tell_refusal(&refusal, &mut told)?,
                }
                reply(&mut output, &told)?;
                continue;
            }
            _ => {}
        }
        let mut case = Cursor(rest);
        let (protocol, version) = (
            PROTOCOLS[case.number::<1>()? as usize],
            case.number::<2>()? as usize,
        );
        let (now_unix_ns, duration_ns) = (case.number::<8>()?.cast_signed(), case.number::<8>()?);
        let message = Bytes::copy_from_slice(case.part()?);
        let outputs = case.tensors()?;
        let mut told = String::new();
        let version = versions.get(version).ok_or("no such version")?;
        tell(
            version,
            protocol,
            message,
            now_unix_ns,
            duration_ns,
            &outputs,
            &texts,
            &mut told,
        )?;
        reply(&mut output, &told)?;
    }
    Ok(output.flush()?)
}

fn reply(output: &mut impl Write, told: &str) -> Result<(), Fault> {
    output.write_all(&u32::try_from(told.len())?.to_le_bytes())?;
    Ok(output.write_all(told.as_bytes())?)
}

#[allow(clippy::too_many_arguments)]
fn tell(
    version: &Compiled,
    protocol: Protocol,
    message: Bytes,
    now_unix_ns: i64,
    duration_ns: u64,
    outputs: &[Tensor],
    texts: &Texts,
    told: &mut String,
) -> Result<(), Fault> {
    let mut parsed = match parse(protocol, message, texts) {
        Ok(parsed) => parsed,
        Err(refusal) => return tell_refusal(&refusal, told),
    };
    let mut findings = Findings::default();
    if let Err(refusal) = answer(
        version,
        &mut parsed,
        now_unix_ns,
        duration_ns,
        outputs,
        texts,
        &mut findings,
        told,
    )? {
        let mut refusal = refusal;
        if parsed.require_request(texts).is_ok() {
            refusal.request_id = bounded(parsed.request_id(DRAWN), MAX_ID_BYTES);
        }
        tell_refusal(&refusal, told)?;
        if let Some(answer) = refused(protocol, parsed.sequence(), &refusal) {
            writeln!(told, "A|{}", hex(&answer))?;
        }
    }
    let mut violations: Vec<_> = findings.violations.iter().collect();
    violations.sort_by(|one, other| one.rule.cmp(&other.rule));
    for broken in violations {
        writeln!(
            told,
            "V|{}|{}|{}",
            broken.rule,
            format!("{:?}", broken.policy).to_lowercase(),
            broken.times
        )?;
    }
    Ok(())
}

#[allow(clippy::too_many_arguments)]
fn answer(
    version: &Compiled,
    parsed: &mut Parsed,
    now_unix_ns: i64,
    duration_ns: u64,
    outputs: &[Tensor],
    texts: &Texts,
    findings: &mut Findings,
    told: &mut String,
) -> Result<Result<(), Refusal>, Fault> {
    macro_rules! or_refuse {
        ($result:expr) => {
            match $result {
                Ok(value) => value,
                Err(refusal) => return Ok(Err(refusal)),
            }
        };
    }
    let framing = Framing {
        protocol: parsed.protocol(),
        sequence: parsed.sequence(),
        max_bytes: 10_000,
    };
    or_refuse!(parsed.require_request(texts));
    let target = or_refuse!(parsed.target(DRAWN, texts));
    writeln!(told, "T|{}|{}|{}", target.model, target.version, target.key)?;
    let shape = or_refuse!(parsed.shape(&version.schema, texts));
    writeln!(told, "S|{}|{}", shape.rows, shape.values)?;
    let mut call = or_refuse!(parsed.read(&version.schema, &shape, DRAWN, texts));
    let mut run = || {
        version.inputs.check(&mut call, now_unix_ns, texts)?;
        let read = call.clone();
        version
            .outputs
            .check(outputs, call.rows, &mut call.findings, texts)?;
        Ok((
            read,
            version
                .encoder
                .answer(framing, &mut call, outputs, duration_ns, texts)?,
        ))
    };
    let ran = run();
    *findings = call.findings.clone();
    let (read, answer) = or_refuse!(ran);
    tell_call(&read, told)?;
    writeln!(told, "A|{}", hex(&answer))?;
    Ok(Ok(()))
}

fn tell_refusal(refusal: &Refusal, told: &mut String) -> Result<(), Fault> {
    let reason = refusal.reason.map_or("", |reason| reason.label());
    let Refusal {
        code,
        executed,
        field,
        message,
        request_id,
        ..
    } = refusal;
    Ok(writeln!(
        told,
        "R|{code}|{reason}|{}|{field}|{request_id}|{message}",
        u8::from(*executed)
    )?)
}

fn tell_call(call: &Call, told: &mut String) -> Result<(), Fault> {
    let Call {
        rows,
        request_id,
        event_time_unix_ns,
        timeout_us,
        outputs,
        ..
    } = call;
    writeln!(
        told,
        "C|{rows}|{request_id}|{event_time_unix_ns}|{timeout_us}|{:?}",
        outputs.as_deref().unwrap_or(&[])
    )?;
    for tensor in &call.inputs {
        let elements = match &tensor.elements {
            Elements::Numbers(data) => hex(data),
            Elements::Strings(strings) => strings
                .iter()
                .map(|string| hex(string.as_bytes()) + ",")
                .collect(),
        };
        writeln!(
            told,
            "I|{}|{:?}|{elements}",
            tensor.datatype.label(),
            tensor.shape
        )?;
    }
    for finding in &call.findings.kept {
        writeln!(
            told,
            "F|{}|{}|{}|{}",
            finding.kind.label(),
            finding.row,
            finding.column,
            finding.rule
        )?;
    }
    Ok(writeln!(told, "L|{}", call.findings.left_out)?)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn frame(input: &mut impl Read) -> Result<Option<Vec<u8>>, Fault> {
    let mut size = [0; 4];
    if input.read(&mut size[..1])? == 0 {
        return Ok(None);
    }
    input.read_exact(&mut size[1..])?;
    let mut frame = vec![0; u32::from_le_bytes(size) as usize];
    input.read_exact(&mut frame)?;
    Ok(Some(frame))
}

fn entry(line: &str) -> Entry {
    let mut parts = line.split('\x1f').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    let (name, code, reason, template) = (next(), next(), next(), next());
    Entry {
        name,
        code,
        reason: Some(reason).filter(|it| !it.is_empty()),
        template,
        executed: next() == "True",
    }
}

/// A version as lines of words.
fn version(lines: &str) -> Result<VersionPlan, Fault> {
    let mut version = VersionPlan {
        model: "m".to_owned(),
        version: "3".to_owned(),
        digest: Bytes::from_static(&[0xAB; 32]),
        model_sha256: String::new(),
        model_file: "/".into(),
        inputs: Vec::new(),
        outputs: Vec::new(),
        feature_names: Vec::new(),
        feature_digest: Bytes::from_static(&[0xCD; 32]),
        signal: None,
        confidence: None,
        input_rules: InputRules {
            finite: false,
            defaults: [].into(),
            bounds: Vec::new(),
            event_time: EventTimeRule {
                required: false,
                max_age_s: None,
                max_future_s: None,
                policy: Policy::Reject,
            },
        },
        output_rules: Vec::new(),
        limits: Limits {
            max_rows: 4096,
            default_deadline_us: 0,
            max_wait_us: 0,
            latency_budget_us: 0,
        },
    };
    for line in lines.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let number = |place: usize| -> Result<f64, Fault> { Ok(words[place].parse()?) };
        let some = |place: usize| {
            Ok::<_, Fault>(if words[place] == "-" {
                None
            } else {
                Some(number(place)?)
            })
        };
        match words[0] {
            "input" => version.inputs.push(spec(&words)?),
            "output" => version.outputs.push(spec(&words)?),
            "feature" => version.feature_names.push(words[1].to_owned()),
            "default" => {
                _ = version
                    .input_rules
                    .defaults
                    .insert(words[1].to_owned(), number(2)?)
            }
            "finite" => version.input_rules.finite = true,
            "bound" => {
                let policy = policy(words[3]);
                version.input_rules.bounds.push(Bound {
                    low: number(1)?,
                    high: number(2)?,
                    policy,
                });
            }
            "time" => {
                version.input_rules.event_time = EventTimeRule {
                    required: words[1] == "True",
                    max_age_s: some(2)?,
                    max_future_s: some(3)?,
                    policy: policy(words[4]).ok_or("no policy")?,
                }
            }
            "rule" => version.output_rules.push(OutputRule {
                name: words[1].to_owned(),
                output: words[2].to_owned(),
                kind: match words[3] {
                    "finite" => OutputRuleKind::Finite,
                    "range" => OutputRuleKind::Range,
                    _ => OutputRuleKind::RowSum,
                },
                low: number(4)?,
                high: number(5)?,
                policy: policy(words[6]).ok_or("no policy")?,
            }),
            "signal" | "confidence" => {
                let column = if words[2] == "-" {
                    None
                } else {
                    Some(words[2].parse()?)
                };
                let mapping = ColumnMapping {
                    output: words[1].to_owned(),
                    column,
                    scale: number(3)?,
                    offset: number(4)?,
                };
                *(if words[0] == "signal" {
                    &mut version.signal
                } else {
                    &mut version.confidence
                }) = Some(mapping);
            }
            "rows" => version.limits.max_rows = words[1].parse()?,
            other => return Err(format!("a version has no {other}").into()),
        }
    }
    Ok(version)
}

fn spec(words: &[&str]) -> Result<TensorSpec, Fault> {
    let datatype = DATATYPES
        .into_iter()
        .find(|datatype| datatype.label() == words[2])
        .ok_or("no such datatype")?;
    let shape = words[3..]
        .iter()
        .map(|size| size.parse())
        .collect::<Result<_, _>>()?;
    Ok(TensorSpec {
        name: words[1].to_owned(),
        datatype,
        shape,
    })
}

fn policy(word: &str) -> Option<Policy> {
    Some(match word {
        "reject" => Policy::Reject,
        "clip" => Policy::Clip,
        "flag" => Policy::Flag,
        "fallback" => Policy::Fallback,
        _ => return None,
    })
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, size: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self.0.split_at_checked(size).ok_or("a case ends too soon")?;
        self.0 = rest;
        Ok(taken)
    }

    fn number<const SIZE: usize>(&mut self) -> Result<u64, Fault> {
        let mut number = [0; 8];
        number[..SIZE].copy_from_slice(self.take(SIZE)?);
        Ok(u64::from_le_bytes(number))
    }

    fn part(&mut self) -> Result<&'a [u8], Fault> {
        let size = self.number::<4>()? as usize;
        self.take(size)
    }

    fn tensors(&mut self) -> Result<Vec<Tensor>, Fault> {
        let mut tensors = Vec::new();
        while !self.0.is_empty() {
            let datatype = DATATYPES[self.number::<1>()? as usize];
            let rank = self.number::<1>()?;
            let shape = (0..rank)
                .map(|_| Ok(self.number::<8>()?.cast_signed()))
                .collect::<Result<_, Fault>>()?;
            let data = self.part()?;
            let elements = match datatype {
                Datatype::Bytes => {
                    let (mut strings, mut data) = (Vec::new(), Cursor(data));
                    while !data.0.is_empty() {
                        strings.push(String::from_utf8(data.part()?.to_vec())?);
                    }
                    Elements::Strings(strings)
                }
                _ => Elements::Numbers(Bytes::copy_from_slice(data)),
            };
            tensors.push(Tensor {
                datatype,
                shape,
                elements,
            });
        }
        Ok(tensors)
    }
}
