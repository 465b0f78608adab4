//! The same calls over HTTP, with the paths and the JSON of the real one.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tonic::{Code, Request, Status};

use super::json as form;
use super::service::Admin;
use crate::identity;
use crate::proto::clustermetadata::{ShardKey, id::ComponentType};
use crate::proto::multiadmin as data;
use crate::proto::multiadmin::multiadmin_service_server::MultiadminService as _;

type Shared = State<Arc<Admin>>;
type Asked = Query<Vec<(String, String)>>;

/// The routes of the API.
pub fn routes(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/api/v1/cells", get(cells))
        .route("/api/v1/cells/{name}", get(cell))
        .route("/api/v1/databases", get(databases))
        .route("/api/v1/databases/{name}", get(database))
        .route("/api/v1/poolers", get(poolers))
        .route("/api/v1/gateways", get(gateways))
        .route("/api/v1/orchs", get(orchs))
        .route("/api/v1/poolers/{cell}/{name}/status", get(pooler_status))
        .route("/api/v1/backups", get(backups).post(backup))
        .route("/api/v1/backups/expire", post(expire))
        .route("/api/v1/backups/verify", post(verify))
        .route("/api/v1/jobs/{job_id}", get(job))
        .route("/api/v1/shards/{database}/{table_group}/{shard}/switch-primary", post(switch_primary))
        .with_state(admin)
}

fn reply<T>(outcome: Result<tonic::Response<T>, Status>, shape: impl FnOnce(T) -> Value) -> Response {
    match outcome {
        Ok(answer) => Json(shape(answer.into_inner())).into_response(),
        Err(status) => {
            let code = match status.code() {
                Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
                Code::NotFound => StatusCode::NOT_FOUND,
                Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
                Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
                Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
                Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            let body = json!({"code": i32::from(status.code()), "message": status.message(), "details": []});
            (code, Json(body)).into_response()
        }
    }
}

fn all(asked: &Asked, name: &str) -> Vec<String> {
    asked.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
}

fn one(asked: &Asked, names: &[&str]) -> String {
    asked.0.iter().find(|(key, _)| names.contains(&key.as_str())).map(|(_, value)| value.clone()).unwrap_or_default()
}

/// A member of a JSON body, in either spelling.
fn text(body: &Value, names: &[&str]) -> String {
    names.iter().find_map(|name| body.get(name)?.as_str()).unwrap_or_default().to_owned()
}

fn body(bytes: &Bytes) -> Result<Value, Status> {
    if bytes.is_empty() {
        return Ok(json!({}));
    }
    serde_json::from_slice(bytes).map_err(|error| Status::invalid_argument(format!("invalid JSON: {error}")))
}

async fn cells(State(admin): Shared) -> Response {
    reply(admin.get_cell_names(Request::new(data::GetCellNamesRequest {})).await, |it| json!({"names": it.names}))
}

async fn cell(State(admin): Shared, Path(name): Path<String>) -> Response {
    let answer = admin.get_cell(Request::new(data::GetCellRequest { name })).await;
    reply(answer, |it| json!({"cell": it.cell.as_ref().map(form::cell)}))
}

async fn databases(State(admin): Shared) -> Response {
    let answer = admin.get_database_names(Request::new(data::GetDatabaseNamesRequest {})).await;
    reply(answer, |it| json!({"names": it.names}))
}

async fn database(State(admin): Shared, Path(name): Path<String>) -> Response {
    let answer = admin.get_database(Request::new(data::GetDatabaseRequest { name })).await;
    reply(answer, |it| json!({"database": it.database.as_ref().map(form::database)}))
}

async fn poolers(State(admin): Shared, asked: Asked) -> Response {
    let request = data::GetPoolersRequest {
        cells: all(&asked, "cells"),
        database: one(&asked, &["database"]),
        shard: one(&asked, &["shard"]),
    };
    let answer = admin.get_poolers(Request::new(request)).await;
    reply(answer, |it| json!({"poolers": it.poolers.iter().map(form::pooler).collect::<Vec<_>>()}))
}

async fn gateways(State(admin): Shared, asked: Asked) -> Response {
    let answer = admin.get_gateways(Request::new(data::GetGatewaysRequest { cells: all(&asked, "cells") })).await;
    reply(answer, |it| json!({"gateways": it.gateways.iter().map(form::gateway).collect::<Vec<_>>()}))
}

async fn orchs(State(admin): Shared, asked: Asked) -> Response {
    let answer = admin.get_orchs(Request::new(data::GetOrchsRequest { cells: all(&asked, "cells") })).await;
    reply(answer, |it| json!({"orchs": it.orchs.iter().map(form::orch).collect::<Vec<_>>()}))
}

async fn pooler_status(State(admin): Shared, Path((cell, name)): Path<(String, String)>) -> Response {
    let pooler_id = Some(identity::id(ComponentType::Multipooler, &cell, &name));
    let answer = admin.get_pooler_status(Request::new(data::GetPoolerStatusRequest { pooler_id })).await;
    reply(answer, |it| json!({"status": it.status.as_ref().map(form::status)}))
}

async fn backups(State(admin): Shared, asked: Asked) -> Response {
    let request = data::GetBackupsRequest {
        database: one(&asked, &["database"]),
        table_group: one(&asked, &["table_group", "tableGroup"]),
        shard: one(&asked, &["shard"]),
        limit: one(&asked, &["limit"]).parse().unwrap_or_default(),
    };
    let answer = admin.get_backups(Request::new(request)).await;
    reply(answer, |it| json!({"backups": it.backups.iter().map(form::backup).collect::<Vec<_>>()}))
}

async fn backup(State(admin): Shared, bytes: Bytes) -> Response {
    let answer = match body(&bytes) {
        Ok(body) => {
            let request = data::BackupRequest {
                database: text(&body, &["database"]),
                table_group: text(&body, &["tableGroup", "table_group"]),
                shard: text(&body, &["shard"]),
                r#type: text(&body, &["type"]),
                force_primary: ["forcePrimary", "force_primary"]
                    .iter()
                    .any(|name| body.get(name).and_then(Value::as_bool).unwrap_or_default()),
            };
            admin.backup(Request::new(request)).await
        }
        Err(status) => Err(status),
    };
    reply(answer, |it| json!({"jobId": it.job_id}))
}

async fn expire(State(admin): Shared, bytes: Bytes) -> Response {
    let answer = match body(&bytes) {
        Ok(body) => {
            let request = data::ExpireBackupsRequest {
                database: text(&body, &["database"]),
                table_group: text(&body, &["tableGroup", "table_group"]),
                shard: text(&body, &["shard"]),
                overrides: BTreeMap::new(),
            };
            admin.expire_backups(Request::new(request)).await
        }
        Err(status) => Err(status),
    };
    reply(answer, |it| json!({"expiredBackupIds": it.expired_backup_ids}))
}

async fn verify(State(admin): Shared, bytes: Bytes) -> Response {
    let answer = match body(&bytes) {
        Ok(body) => {
            let request = data::VerifyBackupsRequest {
                database: text(&body, &["database"]),
                table_group: text(&body, &["tableGroup", "table_group"]),
                shard: text(&body, &["shard"]),
            };
            admin.verify_backups(Request::new(request)).await
        }
        Err(status) => Err(status),
    };
    reply(answer, |it| json!({"duration": it.duration.map(|it| form::duration(&it)), "rawOutput": it.raw_output}))
}

async fn job(State(admin): Shared, Path(job_id): Path<String>, asked: Asked) -> Response {
    let request = data::GetBackupJobStatusRequest {
        job_id,
        database: one(&asked, &["database"]),
        table_group: one(&asked, &["table_group", "tableGroup"]),
        shard: one(&asked, &["shard"]),
    };
    reply(admin.get_backup_job_status(Request::new(request)).await, |it| form::job(&it))
}

async fn switch_primary(
    State(admin): Shared,
    Path((database, table_group, shard)): Path<(String, String, String)>,
    bytes: Bytes,
) -> Response {
    let answer = match body(&bytes) {
        Ok(body) => {
            let request = data::SwitchPrimaryRequest {
                shard_key: Some(ShardKey { database, table_group, shard }),
                reason: text(&body, &["reason"]),
            };
            admin.switch_primary(Request::new(request)).await
        }
        Err(status) => Err(status),
    };
    reply(answer, |it| json!({"oldLeaderId": it.old_leader_id.as_ref().map(form::id)}))
}
