//! multiadmin.

mod json;
mod rest;
pub mod service;

use std::sync::Arc;

use anyhow::Result;
use axum::Router;
use tonic::service::Routes;

use self::service::Admin;
use crate::fault::Faults;
use crate::flag::Values;
use crate::launch::Role;
use crate::proto::multiadmin::multiadmin_service_server::MultiadminServiceServer;
use crate::serving::{Serving, Surface, always_ready};
use crate::tls::PoolerDialer;
use crate::topology::Store;

/// Runs multiadmin.
pub async fn run(values: Values) -> Result<()> {
    let store = Store::open(&values).await?;
    let admin = Arc::new(Admin::new(store, PoolerDialer::from_flags(&values)?));
    // The service is off unless the map names it: forgetting it shows as a missing API.
    let enabled = values.list("service-map").iter().any(|service| service == "grpc-multiadmin");
    let (pages, services) = if enabled {
        (rest::routes(Arc::clone(&admin)), Routes::new(MultiadminServiceServer::from_arc(admin)))
    } else {
        (Router::new(), Routes::default())
    };
    let serving = Serving::start(
        &values,
        Surface { role: Role::Admin, faults: Faults::watch(""), ready: always_ready(), pages, services },
    )
    .await?;
    serving.until_told().await?;
    serving.close().await;
    Ok(())
}
