//! Adds typed objects to a plan.

use kube::Resource;
use serde::Serialize;
use shared::kubeutil::{Object, ObjectKey};

use crate::{
    error::Error,
    plan::{Action, Plan},
};

/// Adds a server-side apply of `object`.
pub fn want<S, K>(plan: &mut Plan<S>, reason: &'static str, object: &K) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + Serialize,
{
    plan.apply(reason, erased(object)?);
    Ok(())
}

/// Adds the creation of `object`, which is never rewritten.
pub fn want_once<S, K>(plan: &mut Plan<S>, reason: &'static str, object: &K) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + Serialize,
{
    plan.write(reason, Action::CreateOnce(erased(object)?));
    Ok(())
}

fn erased<K>(object: &K) -> Result<Object, Error>
where
    K: Resource<DynamicType = ()> + Serialize,
{
    Object::of(object).map_err(|source| Error::Serialise {
        object: ObjectKey::of(object).to_string(),
        source: serde::ser::Error::custom(source),
    })
}
