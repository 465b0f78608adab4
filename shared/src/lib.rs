//! Types, defaults and helpers that the controller and the admission service share.

pub mod admin;
pub mod annotation;
pub mod api;
pub mod cli;
pub mod clock;
pub mod condition;
pub mod field_path;
pub mod health;
pub mod image;
pub mod kubeutil;
pub mod label;
pub mod lease;
pub mod merge;
pub mod metrics;
pub mod name;
pub mod pgconfig;
pub mod pki;
pub mod quantity;
pub mod resolve;
pub mod schedule;
pub mod signal;
pub mod telemetry;
pub mod validate;
