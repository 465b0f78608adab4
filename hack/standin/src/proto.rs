//! The generated messages and services of the data plane's protocol.

#![allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]

pub mod clustermetadata {
    tonic::include_proto!("clustermetadata");
}
pub mod consensus {
    tonic::include_proto!("consensus");
}
pub mod consensusdata {
    tonic::include_proto!("consensusdata");
}
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}
pub mod multiadmin {
    tonic::include_proto!("multiadmin");
}
pub mod multiorch {
    tonic::include_proto!("multiorch");
}
pub mod multipoolermanager {
    tonic::include_proto!("multipoolermanager");
}
pub mod multipoolermanagerdata {
    tonic::include_proto!("multipoolermanagerdata");
}
pub mod pgctldservice {
    tonic::include_proto!("pgctldservice");
}
pub mod serviceinfo {
    tonic::include_proto!("serviceinfo");
}
