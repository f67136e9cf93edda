//! The refusals of the pipeline itself, each with the facts that its text asks for.

use std::time::Duration;

use crate::plan::Halt;
use crate::refusal::Refusal;
use crate::texts::{MAX_ID_BYTES, Name, Texts};

/// The first characters of a name that a client chose.
fn shown(name: &str) -> &str {
    name.char_indices()
        .nth(MAX_ID_BYTES)
        .map_or(name, |(end, _)| &name[..end])
}

/// No model of this name; `known` are those that are served.
pub fn unknown_model(texts: &Texts, model: &str, known: &str) -> Refusal {
    let model = shown(model).into();
    if known.is_empty() {
        return texts.refuse(Name::NoModels, "model", &[("model", model)]);
    }
    texts.refuse(
        Name::UnknownModel,
        "model",
        &[("model", model), ("known", known.into())],
    )
}

/// No version of this number.
pub fn unknown_version(texts: &Texts, model: &str, version: &str, known: &str) -> Refusal {
    let facts = [
        ("version", shown(version).into()),
        ("model", model.into()),
        ("known", known.into()),
    ];
    texts.refuse(Name::UnknownVersion, "version", &facts)
}

/// A model that is known and not served yet.
pub fn loading(texts: &Texts, model: &str) -> Refusal {
    texts.refuse(Name::Loading, "model", &[("model", model.into())])
}

/// A model that is known and cannot be served.
pub fn not_loaded(texts: &Texts, model: &str, why: &str) -> Refusal {
    texts.refuse(
        Name::NotLoaded,
        "model",
        &[("model", model.into()), ("why", why.into())],
    )
}

/// A model stopped on purpose.
pub fn halted(texts: &Texts, model: &str, halt: &Halt) -> Refusal {
    let facts = [
        ("model", model.into()),
        ("actor", (&halt.actor).into()),
        ("why", (&halt.reason).into()),
    ];
    texts.refuse(Name::Halted, "", &facts)
}

/// A version that takes no requests by its number.
pub fn pin_refused(texts: &Texts, model: &str, version: &str) -> Refusal {
    texts.refuse(
        Name::PinRefused,
        "version",
        &[("version", version.into()), ("model", model.into())],
    )
}

/// There is one repository, without a name.
pub fn no_repository(texts: &Texts, name: &str) -> Refusal {
    texts.refuse(
        Name::NoRepository,
        "repository_name",
        &[("name", shown(name).into())],
    )
}

/// The server goes down.
pub fn draining(texts: &Texts) -> Refusal {
    texts.refuse(Name::Draining, "", &[])
}

/// Too much is in flight.
pub fn overloaded_in_flight(texts: &Texts, count: usize, bound: usize) -> Refusal {
    texts.refuse(
        Name::OverloadedInFlight,
        "",
        &[("count", count.into()), ("bound", bound.into())],
    )
}

/// Too much of one client is in flight.
pub fn client_in_flight(texts: &Texts, count: usize, bound: usize) -> Refusal {
    texts.refuse(
        Name::ClientInFlight,
        "",
        &[("count", count.into()), ("bound", bound.into())],
    )
}

/// It waited, or would wait, for too long.
pub fn overloaded_wait(texts: &Texts, model: &str, wait: Duration, bound_us: u64) -> Refusal {
    let wait_us = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
    let facts = [
        ("wait_us", wait_us.into()),
        ("model", model.into()),
        ("bound_us", bound_us.into()),
    ];
    texts.refuse(Name::OverloadedWait, "", &facts)
}

/// Too late to run.
pub fn deadline(texts: &Texts) -> Refusal {
    texts.refuse(Name::Deadline, "", &[])
}

/// It ran, and too long.
pub fn deadline_ran(texts: &Texts) -> Refusal {
    texts.refuse(Name::DeadlineRan, "", &[])
}

/// Whatever it was, it is in the log; the model may have run.
pub fn internal(texts: &Texts) -> Refusal {
    texts.refuse(Name::Internal, "", &[])
}

/// Whatever it was, it is in the log; no model ran.
pub fn fault(texts: &Texts) -> Refusal {
    texts.refuse(Name::Fault, "", &[])
}

/// A description that clients would not take.
pub fn description_too_long(texts: &Texts, size: usize, bound: usize) -> Refusal {
    texts.refuse(
        Name::DescriptionTooLong,
        "",
        &[("size", size.into()), ("bound", bound.into())],
    )
}

/// Bytes that are no message of this name.
pub fn malformed(texts: &Texts, message: &str) -> Refusal {
    texts.refuse(Name::Malformed, "", &[("message", message.into())])
}

/// It changes state.
pub fn admin_only(texts: &Texts) -> Refusal {
    texts.refuse(Name::AdminOnly, "", &[])
}

/// Health of what is not here.
pub fn unknown_service(texts: &Texts, service: &str) -> Refusal {
    texts.refuse(Name::UnknownService, "", &[("service", shown(service).into())])
}
