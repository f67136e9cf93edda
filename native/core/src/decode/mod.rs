//! Requests: from the bytes of a message to a call, in the order of the reference's checks, so that a request with two
//! mistakes is refused for the same one.
//!
//! `parse` finds the parts of a message; `target` says what it asks for; `shape` holds its shapes against the version,
//! in a time that no client can stretch; `read` makes a call of it. Numbers in one part are never copied.

mod contents;
mod features;
mod infer;
mod parameters;
mod predict;
mod schema;
mod tensors;
pub(crate) mod wire;

use bytes::Bytes;

use self::infer::InferRequest;
use self::parameters::{ENTITIES, FEATURE_DIGEST, Options, check_length, text};
use self::predict::PredictRequest;
pub use self::schema::Schema;
use self::tensors::Found;
pub use self::wire::Span;
pub(crate) use self::wire::{Fields, Malformed, Value};
use crate::call::{Call, Findings};
use crate::plan::TensorSpec;
use crate::refusal::Refusal;
use crate::service::Protocol;
use crate::tap::Entities;
use crate::texts::{Name, Texts};

/// A message that is well formed; not held against any model yet.
#[derive(Debug)]
pub struct Parsed {
    message: Bytes,
    protocol: Protocol,
    sequence: u64,
    request: Request,
}

#[derive(Debug)]
enum Request {
    Infer(InferRequest, Option<Options>),
    Predict(PredictRequest),
    /// A message of a stream without a request.
    Nothing,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Target<'a> {
    pub model: &'a str,
    /// Pins one version; empty lets the split decide.
    pub version: &'a str,
    /// Decides the version in a split.
    pub key: &'a str,
}

/// A request's shapes, held against the schema before any contents are read.
#[derive(Debug)]
pub struct Shape {
    /// At least 1.
    pub rows: u64,
    /// Elements in all inputs: what a request costs grows with them.
    pub values: u64,
    inputs: Vec<Found>,
}

/// Parses a message. What it refuses has no request to answer: it ends a stream.
pub fn parse(protocol: Protocol, message: Bytes, texts: &Texts) -> Result<Parsed, Refusal> {
    let (mut sequence, name) = (0, message_name(protocol));
    let request = match protocol {
        Protocol::Infer | Protocol::InferStream => {
            InferRequest::parse(&message).map(|request| Request::Infer(request, None))
        }
        Protocol::Predict => PredictRequest::parse(&message).map(Request::Predict),
        Protocol::PredictStream => PredictRequest::parse_streamed(&message).map(|(number, request)| {
            sequence = number;
            request.map_or(Request::Nothing, Request::Predict)
        }),
    };
    match request {
        Ok(request) => Ok(Parsed {
            message,
            protocol,
            sequence,
            request,
        }),
        Err(Malformed) => Err(texts.refuse(Name::Malformed, "", &[("message", name.into())])),
    }
}

impl Parsed {
    /// How the answer is put.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// What a PredictStreamRequest is numbered; else 0.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// As it came.
    pub fn message(&self) -> &Bytes {
        &self.message
    }

    /// The size of the message in bytes.
    pub fn size(&self) -> usize {
        self.message.len()
    }

    /// Refuses a message of a stream that holds no request.
    pub fn require_request(&self, texts: &Texts) -> Result<(), Refusal> {
        match self.request {
            Request::Nothing => Err(texts.refuse(Name::NoRequest, "request", &[])),
            _ => Ok(()),
        }
    }

    /// The name of the model asked for.
    pub fn model(&self) -> &str {
        match &self.request {
            Request::Infer(request, _) => text(&self.message, request.model),
            Request::Predict(request) => text(&self.message, request.model),
            Request::Nothing => "",
        }
    }

    /// The id that answers and errors carry; of any length. `drawn` stands in where the protocol wants one.
    pub fn request_id<'a>(&'a self, drawn: &'a str) -> &'a str {
        match &self.request {
            Request::Infer(request, _) => text(&self.message, request.id),
            Request::Predict(request) if request.id.is_empty() => drawn,
            Request::Predict(request) => text(&self.message, request.id),
            Request::Nothing => "",
        }
    }

    /// The routing key as sent, of a request whose `target` was taken.
    pub fn routing_key(&self) -> &str {
        let key = match &self.request {
            Request::Infer(_, options) => options
                .as_ref()
                .map(|options| options.routing_key)
                .unwrap_or_default(),
            Request::Predict(request) => request.routing_key,
            Request::Nothing => Span::default(),
        };
        text(&self.message, key)
    }

    /// The entities, of a request whose `target` was taken.
    pub fn entities(&self) -> Entities<'_> {
        match &self.request {
            Request::Infer(_, Some(options)) if options.entities > 0 => {
                Entities::Commas(text(&self.message, options.entity_text))
            }
            Request::Predict(request) if request.entities > 0 => Entities::Parts {
                message: &self.message,
                first: request.first_entity,
                rest: &request.more_entities,
            },
            _ => Entities::None,
        }
    }

    /// What the request asks for; `drawn` is the key where it has neither a routing key nor an id.
    pub fn target<'a>(&'a mut self, drawn: &'a str, texts: &Texts) -> Result<Target<'a>, Refusal> {
        let message = &self.message;
        let (model, version, id, key) = match &mut self.request {
            Request::Infer(request, options) => {
                check_length("id", text(message, request.id), texts)?;
                *options = request.parameters.options(message, texts)?;
                let key = options
                    .as_ref()
                    .map(|options| options.routing_key)
                    .unwrap_or_default();
                (request.model, request.version, request.id, key)
            }
            Request::Predict(request) => {
                check_length("request_id", text(message, request.id), texts)?;
                check_length("routing_key", text(message, request.routing_key), texts)?;
                (request.model, request.version, request.id, request.routing_key)
            }
            Request::Nothing => return Err(texts.refuse(Name::NoRequest, "request", &[])),
        };
        let key = [key, id].into_iter().find(|span| !span.is_empty());
        let key = key.map_or(drawn, |span| text(message, span));
        Ok(Target {
            model: text(message, model),
            version: text(message, version),
            key,
        })
    }

    /// Holds everything but contents against the version that `target` was routed to.
    pub fn shape(&self, schema: &Schema, texts: &Texts) -> Result<Shape, Refusal> {
        match &self.request {
            Request::Infer(request, options) => {
                let shape = tensors::shapes(request, &self.message, schema, texts)?;
                if let Some(options) = options {
                    schema.check_entities(options.entities, shape.rows, ENTITIES, texts)?;
                    schema.check_digest(&options.feature_digest, FEATURE_DIGEST, texts)?;
                }
                Ok(shape)
            }
            Request::Predict(request) => features::shape(request, &self.message, schema, texts),
            Request::Nothing => Err(texts.refuse(Name::NoRequest, "request", &[])),
        }
    }

    /// Lets go of what its answer cannot depend on, of a request that waits after its shape was found in order: of more
    /// names than there are, all different, one is wrong, and the first wrong one is what it is refused for.
    pub fn shed(&mut self, schema: &Schema) {
        match &mut self.request {
            Request::Infer(request, _) => {
                request.outputs.truncate(schema.version.outputs.len() + 1);
                request.outputs.shrink_to_fit();
            }
            Request::Predict(request) => {
                request.named.truncate(schema.version.feature_names.len() + 1);
                request.named.shrink_to_fit();
            }
            Request::Nothing => {}
        }
    }

    /// Reads the contents of a request whose shape was found in order, once.
    pub fn read(
        &mut self,
        schema: &Schema,
        shape: &Shape,
        drawn: &str,
        texts: &Texts,
    ) -> Result<Call, Refusal> {
        let request_id = self.request_id(drawn).to_owned();
        let mut call = Call {
            inputs: Vec::new(),
            rows: shape.rows,
            request_id,
            event_time_unix_ns: 0,
            timeout_us: 0,
            outputs: None,
            findings: Findings::default(),
            received: None,
        };
        match &mut self.request {
            Request::Infer(request, options) => {
                call.inputs = tensors::read(request, &self.message, schema, shape, texts)?;
                if let Some(options) = options {
                    call.event_time_unix_ns = options.event_time_unix_ns;
                    call.timeout_us = options.timeout_us;
                }
                if !request.outputs.is_empty() {
                    call.outputs = Some(wanted(request, &self.message, &schema.version.outputs, texts)?);
                }
            }
            Request::Predict(request) => {
                call.event_time_unix_ns = request.event_time_unix_ns.into();
                call.timeout_us = request.timeout_us;
                call.inputs = vec![features::read(
                    request,
                    &self.message,
                    schema,
                    &mut call.findings,
                    texts,
                )?];
            }
            Request::Nothing => return Err(texts.refuse(Name::NoRequest, "request", &[])),
        }
        Ok(call)
    }
}

/// The indices of the outputs asked for.
fn wanted(
    request: &InferRequest,
    message: &[u8],
    specs: &[TensorSpec],
    texts: &Texts,
) -> Result<Vec<usize>, Refusal> {
    let mut chosen = Vec::with_capacity(request.outputs.len().min(specs.len()));
    for output in &request.outputs {
        output.parameters.refuse_unsupported(message, texts)?;
        let name = text(message, output.name);
        let Some(index) = specs.iter().position(|spec| spec.name == name) else {
            let expected = schema::names(specs);
            let facts = [("tensor", name.into()), ("expected", (&expected).into())];
            return Err(texts.refuse(Name::OutputUnknown, name, &facts));
        };
        if chosen.contains(&index) {
            return Err(texts.refuse(Name::OutputTwice, name, &[("tensor", name.into())]));
        }
        chosen.push(index);
    }
    Ok(chosen)
}

fn message_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Infer | Protocol::InferStream => "ModelInferRequest",
        Protocol::Predict => "PredictRequest",
        Protocol::PredictStream => "PredictStreamRequest",
    }
}

#[cfg(test)]
mod tests;
