//! Reflection from descriptors made by hand.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use tickserve_core::reflection::Reflection;
use tickserve_core::wire::grpc::reflection::v1::server_reflection_request::MessageRequest;
use tickserve_core::wire::grpc::reflection::v1::server_reflection_response::MessageResponse;
use tickserve_core::wire::grpc::reflection::v1::{
    ExtensionRequest, ServerReflectionRequest, ServerReflectionResponse,
};

use crate::support::texts;

fn part(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
}

/// `b.proto` of package `p`: an enum. `a.proto`, which imports it: a message with a field, a nested message and a
/// oneof, and a service with a method.
fn descriptors() -> [Bytes; 2] {
    let value = part(2, &part(1, b"ONE"));
    let base = [
        part(1, b"b.proto"),
        part(2, b"p"),
        part(5, &[part(1, b"E"), value].concat()),
    ]
    .concat();
    let nested = part(3, &part(1, b"Inner"));
    let message = [
        part(1, b"M"),
        part(2, &part(1, b"f")),
        nested,
        part(8, &part(1, b"choice")),
    ]
    .concat();
    let service = [part(1, b"S"), part(2, &part(1, b"Call"))].concat();
    let top = [
        part(1, b"a.proto"),
        part(2, b"p"),
        part(3, b"b.proto"),
        part(4, &message),
        part(6, &service),
    ];
    [top.concat().into(), base.into()]
}

fn ask(request: MessageRequest) -> MessageResponse {
    let services = ["p.S", "a.S"].map(str::to_owned);
    let reflection = Reflection::new(services, descriptors(), Arc::new(texts())).unwrap();
    let request = ServerReflectionRequest {
        host: "h".into(),
        message_request: Some(request),
    };
    let answer = reflection.answer(&request.encode_to_vec()).unwrap();
    let answer = ServerReflectionResponse::decode(answer).unwrap();
    assert_eq!(
        (answer.valid_host.as_str(), answer.original_request),
        ("h", Some(request))
    );
    answer.message_response.unwrap()
}

#[test]
fn every_symbol_leads_to_its_file_and_what_it_imports() {
    let [top, base] = descriptors();
    let files = |request| match ask(request) {
        MessageResponse::FileDescriptorResponse(files) => files.file_descriptor_proto,
        other => panic!("{other:?}"),
    };
    for symbol in ["p.M", "p.M.f", "p.M.Inner", "p.M.choice", "p.S", "p.S.Call"] {
        assert_eq!(
            files(MessageRequest::FileContainingSymbol(symbol.into())),
            [&top, &base],
            "{symbol}"
        );
    }
    for symbol in ["p.E", "p.ONE"] {
        assert_eq!(
            files(MessageRequest::FileContainingSymbol(symbol.into())),
            [&base],
            "{symbol}"
        );
    }
    assert_eq!(files(MessageRequest::FileByFilename("b.proto".into())), [&base]);
}

#[test]
fn services_are_sorted_and_what_is_not_here_is_said_so() {
    let MessageResponse::ListServicesResponse(list) = ask(MessageRequest::ListServices("*".into())) else {
        panic!("no list")
    };
    assert_eq!(
        list.service
            .iter()
            .map(|service| service.name.as_str())
            .collect::<Vec<_>>(),
        ["a.S", "p.S"]
    );
    let error = |request| match ask(request) {
        MessageResponse::ErrorResponse(error) => error.error_message,
        other => panic!("{other:?}"),
    };
    let extension = ExtensionRequest {
        containing_type: "p.M".into(),
        extension_number: 3,
    };
    let unknown = [
        (MessageRequest::FileContainingSymbol("p".into()), "p"),
        (MessageRequest::FileByFilename("c.proto".into()), "c.proto"),
        (MessageRequest::FileContainingExtension(extension), "p.M"),
    ];
    for (request, what) in unknown {
        assert_eq!(error(request), format!("REFLECTION_UNKNOWN what={what}"));
    }
    let numbers = ask(MessageRequest::AllExtensionNumbersOfType("p.M".into()));
    assert!(
        matches!(numbers, MessageResponse::AllExtensionNumbersResponse(none) if none.base_type_name == "p.M")
    );
}

#[test]
fn what_asks_for_nothing_is_answered_and_what_does_not_decode_is_refused() {
    let reflection = Reflection::new([], descriptors(), Arc::new(texts())).unwrap();
    let answer = ServerReflectionResponse::decode(reflection.answer(b"").unwrap()).unwrap();
    let Some(MessageResponse::ErrorResponse(error)) = answer.message_response else {
        panic!("no error")
    };
    assert_eq!(
        (error.error_code, error.error_message.as_str()),
        (3, "REFLECTION_NOTHING")
    );
    let refused = reflection.answer(b"\x0a\xff").unwrap_err();
    assert_eq!(refused.message, "MALFORMED message=ServerReflectionRequest");
}

#[test]
fn descriptors_must_be_readable_and_complete() {
    let [top, _] = descriptors();
    let told = |descriptor: Bytes| {
        Reflection::new([], [descriptor], Arc::new(texts()))
            .unwrap_err()
            .to_string()
    };
    assert!(told(top).ends_with("b.proto is imported and missing"));
    assert!(told(Bytes::from_static(b"\x0a\xff")).ends_with("number 0"));
}
