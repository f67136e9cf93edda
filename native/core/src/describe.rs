//! Calls that describe: answered at once from what is installed, most of it encoded by the control plane before.

use bytes::Bytes;
use prost::Message;

use crate::counters::Counts;
use crate::installed::{Installed, Serving};
use crate::plan::Describing;
use crate::refusal::Refusal;
use crate::refuse;
use crate::service::Describe;
use crate::shared::{FRAME_BYTES, Shared};
use crate::texts::Texts;
use crate::wire::inference as oip;
use crate::wire::tickserve::v1::GetModelRequest;

/// Answers a describing call.
pub fn describe(shared: &Shared, call: Describe, message: &[u8]) -> Result<Bytes, Refusal> {
    let (texts, installed) = (&shared.texts, shared.installed.load());
    let mut bound = shared.bounds.max_answer_bytes;
    let answer = match call {
        Describe::ServerMetadata => shared.server_metadata.clone(),
        Describe::ModelReady => model_ready(texts, &installed, message)?,
        Describe::ModelMetadata => {
            let request: oip::ModelMetadataRequest = parse(texts, message, "ModelMetadataRequest")?;
            described(
                texts,
                &installed,
                Describing::ModelMetadata,
                &request.name,
                &request.version,
            )?
        }
        Describe::ModelConfig => {
            let request: oip::ModelConfigRequest = parse(texts, message, "ModelConfigRequest")?;
            described(
                texts,
                &installed,
                Describing::ModelConfig,
                &request.name,
                &request.version,
            )?
        }
        Describe::GetModel => {
            let request: GetModelRequest = parse(texts, message, "GetModelRequest")?;
            described(
                texts,
                &installed,
                Describing::GetModel,
                &request.model,
                &request.version,
            )?
        }
        Describe::ModelStatistics => model_statistics(texts, &installed, message)?,
        Describe::RepositoryIndex => repository_index(texts, &installed, message)?,
        Describe::ServerReflectionInfo => {
            bound += FRAME_BYTES;
            shared.reflection.answer(message)?
        }
    };
    if answer.len() > bound {
        return Err(refuse::description_too_long(
            texts,
            answer.len(),
            shared.bounds.max_answer_bytes,
        ));
    }
    Ok(answer)
}

fn parse<M: Message + Default>(texts: &Texts, message: &[u8], name: &str) -> Result<M, Refusal> {
    M::decode(message).map_err(|_| refuse::malformed(texts, name))
}

/// What the control plane encoded for this version, or for the one that is described when none is named.
fn described(
    texts: &Texts,
    installed: &Installed,
    call: Describing,
    name: &str,
    version: &str,
) -> Result<Bytes, Refusal> {
    let (model, serving) = installed.find(texts, name, version)?;
    let described = &model.plan.described;
    let found = described.get(&(call, version.to_owned()));
    let found = found.or_else(|| described.get(&(call, serving.runtime.version.version.clone())));
    found.cloned().ok_or_else(|| refuse::fault(texts))
}

/// Whether the version, or any, takes requests now. An unknown model is not ready.
fn model_ready(texts: &Texts, installed: &Installed, message: &[u8]) -> Result<Bytes, Refusal> {
    let request: oip::ModelReadyRequest = parse(texts, message, "ModelReadyRequest")?;
    let model = installed
        .model(&request.name)
        .filter(|model| model.plan.halt.is_none());
    let ready = model.is_some_and(|model| request.version.is_empty() || model.answers(&request.version));
    Ok(encoded(&oip::ModelReadyResponse { ready }))
}

fn repository_index(texts: &Texts, installed: &Installed, message: &[u8]) -> Result<Bytes, Refusal> {
    let request: oip::RepositoryIndexRequest = parse(texts, message, "RepositoryIndexRequest")?;
    if !request.repository_name.is_empty() {
        return Err(refuse::no_repository(texts, &request.repository_name));
    }
    let plan = &installed.plan;
    Ok(if request.ready {
        &plan.repository_index_ready
    } else {
        &plan.repository_index
    }
    .clone())
}

/// For one version, one model, or all: from the counts that are kept anyway.
fn model_statistics(texts: &Texts, installed: &Installed, message: &[u8]) -> Result<Bytes, Refusal> {
    let request: oip::ModelStatisticsRequest = parse(texts, message, "ModelStatisticsRequest")?;
    if !request.name.is_empty() {
        installed.find(texts, &request.name, &request.version)?;
    }
    let models = installed
        .models
        .iter()
        .filter(|model| ["", &model.plan.name].contains(&&*request.name));
    let versions = models.flat_map(|model| &model.versions);
    let wanted = |serving: &&Serving| ["", &serving.runtime.version.version].contains(&&*request.version);
    let model_stats = versions.filter(wanted).map(statistics).collect();
    Ok(encoded(&oip::ModelStatisticsResponse { model_stats }))
}

fn statistics(serving: &Serving) -> oip::ModelStatistics {
    let (version, counts) = (&serving.runtime.version, serving.tallies.sum());
    let Counts { answered, rows, .. } = counts;
    let [wait, decode, validate_input, run, validate_output, encode, total] =
        counts.stages.each_ref().map(|stage| stage.sum_ns);
    let answers = |ns| Some(oip::StatisticDuration { count: answered, ns });
    let failed = counts.errors.values().sum();
    oip::ModelStatistics {
        name: version.model.clone(),
        version: version.version.clone(),
        last_inference: counts.last_answer_unix_ns / 1_000_000,
        inference_count: rows,
        execution_count: answered,
        inference_stats: Some(oip::InferStatistics {
            success: answers(total),
            fail: Some(oip::StatisticDuration { count: failed, ns: 0 }),
            queue: answers(wait),
            compute_input: answers(decode + validate_input),
            compute_infer: answers(run),
            compute_output: answers(validate_output + encode),
            ..oip::InferStatistics::default()
        }),
        ..oip::ModelStatistics::default()
    }
}

fn encoded(message: &impl Message) -> Bytes {
    Bytes::from(message.encode_to_vec())
}
