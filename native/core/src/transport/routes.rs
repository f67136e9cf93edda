//! Which call a path names: every rpc of the services that the data listener offers.

use crate::service::{Describe, Protocol};

/// What answers a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// One message, one answer, from the service.
    Answer(Protocol),
    /// A stream of them.
    AnswerStream(Protocol),
    /// One message, one answer that describes what is installed.
    Describe(Describe),
    /// A stream of them.
    DescribeStream(Describe),
    ServerLive,
    ServerReady,
    HealthCheck,
    HealthWatch,
    /// It changes state and is served elsewhere.
    AdminOnly,
}

impl Route {
    /// The route of a path, None where nothing here has that name.
    pub(super) fn find(path: &str) -> Option<Self> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        match service {
            "inference.GRPCInferenceService" => Self::inference(method),
            "tickserve.v1.Prediction" => match method {
                "Predict" => Some(Self::Answer(Protocol::Predict)),
                "PredictStream" => Some(Self::AnswerStream(Protocol::PredictStream)),
                "GetModel" => Some(Self::Describe(Describe::GetModel)),
                _ => None,
            },
            "grpc.health.v1.Health" => match method {
                "Check" => Some(Self::HealthCheck),
                "Watch" => Some(Self::HealthWatch),
                _ => None,
            },
            "grpc.reflection.v1.ServerReflection" | "grpc.reflection.v1alpha.ServerReflection" => (method
                == "ServerReflectionInfo")
                .then_some(Self::DescribeStream(Describe::ServerReflectionInfo)),
            "tickserve.v1.Control" => match method {
                "Status" | "SetDesired" | "Rollback" | "Follow" | "Halt" | "Resume" | "Drain" | "Events"
                | "Counters" => Some(Self::AdminOnly),
                _ => None,
            },
            _ => None,
        }
    }

    fn inference(method: &str) -> Option<Self> {
        Some(match method {
            "ModelInfer" => Self::Answer(Protocol::Infer),
            "ModelStreamInfer" => Self::AnswerStream(Protocol::InferStream),
            "ServerLive" => Self::ServerLive,
            "ServerReady" => Self::ServerReady,
            "ModelReady" => Self::Describe(Describe::ModelReady),
            "ServerMetadata" => Self::Describe(Describe::ServerMetadata),
            "ModelMetadata" => Self::Describe(Describe::ModelMetadata),
            "ModelConfig" => Self::Describe(Describe::ModelConfig),
            "ModelStatistics" => Self::Describe(Describe::ModelStatistics),
            "RepositoryIndex" => Self::Describe(Describe::RepositoryIndex),
            "RepositoryModelLoad" | "RepositoryModelUnload" => Self::AdminOnly,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rpcs of a .proto file, as paths.
    fn rpcs(proto: &str, service: &str) -> Vec<String> {
        let path = format!("{}/../../protos/{proto}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let names = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("rpc ")?.split_once('('));
        names
            .map(|(name, _)| format!("/{service}/{}", name.trim()))
            .collect()
    }

    #[test]
    fn every_rpc_has_a_route() {
        let services = [
            (
                "inference/grpc_service.proto",
                "inference.GRPCInferenceService",
                12,
            ),
            ("tickserve/v1/prediction.proto", "tickserve.v1.Prediction", 3),
            ("tickserve/v1/control.proto", "tickserve.v1.Control", 9),
            ("grpc/health/v1/health.proto", "grpc.health.v1.Health", 2),
            (
                "grpc/reflection/v1/reflection.proto",
                "grpc.reflection.v1.ServerReflection",
                1,
            ),
            (
                "grpc/reflection/v1/reflection.proto",
                "grpc.reflection.v1alpha.ServerReflection",
                1,
            ),
        ];
        for (proto, service, at_least) in services {
            let paths = rpcs(proto, service);
            assert!(paths.len() >= at_least, "{service}: {paths:?}");
            for path in paths {
                assert!(Route::find(&path).is_some(), "{path}");
            }
        }
    }

    #[test]
    fn all_of_control_is_for_the_admin_listener() {
        for path in rpcs("tickserve/v1/control.proto", "tickserve.v1.Control") {
            assert_eq!(Route::find(&path), Some(Route::AdminOnly));
        }
    }

    #[test]
    fn other_paths_have_none() {
        for path in [
            "",
            "/",
            "nope",
            "/a/b",
            "/tickserve.v1.Prediction/predict",
            "/tickserve.v1.Prediction/Predict/x",
        ] {
            assert_eq!(Route::find(path), None, "{path}");
        }
    }
}
