//! Types, defaults and helpers that the controller and the admission service share.

pub mod api;
pub mod pgconfig;
pub mod annotation;
pub mod clock;
pub mod condition;
pub mod kubeutil;
pub mod label;
pub mod name;
pub mod quantity;
pub mod health;
pub mod image;
pub mod pki;
pub mod merge;
pub mod resolve;
pub mod validate;
pub mod admin;
pub mod cli;
pub mod lease;
pub mod metrics;
pub mod signal;
pub mod telemetry;
