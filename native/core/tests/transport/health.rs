//! Health and readiness, which the transport answers itself.

use prost::Message;
use tickserve_core::wire::grpc::health::v1::health_check_response::ServingStatus;
use tickserve_core::wire::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse};
use tickserve_core::wire::inference::{ServerLiveResponse, ServerReadyResponse};

use crate::support::{Call, Server, code, framed, options};

const CHECK: &str = "/grpc.health.v1.Health/Check";

fn request(service: &str) -> Vec<u8> {
    HealthCheckRequest {
        service: service.to_owned(),
    }
    .encode_to_vec()
}

fn status(message: &[u8]) -> ServingStatus {
    HealthCheckResponse::decode(message).unwrap().status()
}

async fn watch(server: &Server, service: &str) -> Call {
    let mut call = server
        .client()
        .await
        .open("/grpc.health.v1.Health/Watch", &[])
        .await;
    call.send(framed(&request(service)), true);
    call
}

#[tokio::test]
async fn check_says_whether_the_server_is_ready() {
    let server = Server::start(options());
    let client = server.client().await;
    for (is_ready, expected) in [(true, ServingStatus::Serving), (false, ServingStatus::NotServing)] {
        server.transport.set_ready(is_ready);
        for service in ["", "inference.GRPCInferenceService", "tickserve.v1.Prediction"] {
            assert_eq!(
                status(&client.call(CHECK, &request(service)).await.unwrap()),
                expected
            );
        }
        let ready = client
            .call("/inference.GRPCInferenceService/ServerReady", b"")
            .await
            .unwrap();
        assert_eq!(ServerReadyResponse::decode(ready).unwrap().ready, is_ready);
        let live = client
            .call("/inference.GRPCInferenceService/ServerLive", b"")
            .await
            .unwrap();
        assert!(ServerLiveResponse::decode(live).unwrap().live);
    }
}

#[tokio::test]
async fn check_refuses_unknown_services_and_what_does_not_decode() {
    let server = Server::start(options());
    let client = server.client().await;
    let unknown = client.call(CHECK, &request("nope")).await.unwrap_err();
    assert_eq!(
        (code(&unknown), unknown["grpc-message"].to_str().unwrap()),
        (5, "nope")
    );
    assert_eq!(code(&client.call(CHECK, b"\xff\xff").await.unwrap_err()), 3);
}

#[tokio::test]
async fn watch_tells_changes_until_the_drain() {
    let server = Server::start(options());
    let (mut call, mut unknown) = (watch(&server, "").await, watch(&server, "nope").await);
    assert_eq!(
        status(&unknown.message().await.unwrap()),
        ServingStatus::ServiceUnknown
    );
    assert_eq!(status(&call.message().await.unwrap()), ServingStatus::Serving);
    server.transport.set_ready(true);
    server.transport.set_ready(false);
    assert_eq!(status(&call.message().await.unwrap()), ServingStatus::NotServing);
    server.transport.set_ready(true);
    assert_eq!(status(&call.message().await.unwrap()), ServingStatus::Serving);
    let transport = server.transport;
    let stopping = tokio::task::spawn_blocking(move || transport.stop(crate::support::BOUND));
    let trailers = call.message().await.unwrap_err();
    assert_eq!(
        (code(&trailers), &trailers["tickserve-reason"]),
        (14, &"DRAINING".parse().unwrap())
    );
    assert_eq!(code(&unknown.message().await.unwrap_err()), 14);
    drop((call, unknown));
    stopping.await.unwrap();
}
