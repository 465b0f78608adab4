//! Finalisation of the generated definitions: what the derive adds too much of is removed, what it cannot say is added.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use serde_json::json;

/// What an object without `spec` means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecPresence {
    /// The API server fills in an empty spec, so that every read has one.
    Defaulted,
    /// The API server refuses the object.
    Required,
}

/// Turns a generated definition into the one that is installed.
#[must_use]
pub fn finalize_crd(mut crd: CustomResourceDefinition, spec: SpecPresence) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        if let Some(root) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            finalize_root(root, spec);
        }
    }
    crd
}

fn finalize_root(root: &mut JSONSchemaProps, presence: SpecPresence) {
    clean(root);
    root.required = match presence {
        SpecPresence::Defaulted => None,
        SpecPresence::Required => Some(vec!["spec".to_owned()]),
    };
    let Some(properties) = root.properties.as_mut() else { return };
    for (name, kind) in [("apiVersion", "string"), ("kind", "string"), ("metadata", "object")] {
        properties.insert(name.to_owned(), typed(kind));
    }
    if let (SpecPresence::Defaulted, Some(spec)) = (presence, properties.get_mut("spec")) {
        spec.default = Some(JSON(json!({})));
    }
    if let Some(status) = properties.get_mut("status") {
        strip_defaults(status);
    }
}

/// Removes what structural schemas do not want: nullability, titles and foreign formats.
fn clean(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    schema.title = None;
    schema.schema = None;
    schema.default.take_if(|default| default.0.is_null());
    schema.format.take_if(|format| !matches!(format.as_str(), "int32" | "int64" | "date-time"));
    if let Some(values) = schema.enum_.as_mut() {
        values.retain(|value| !value.0.is_null());
    }
    each_subschema(schema, clean);
    // The generator's rewriting empties the alternatives of quantities.
    if schema.x_kubernetes_int_or_string == Some(true) {
        schema.any_of = Some(vec![typed("integer"), typed("string")]);
    }
}

/// A status is what was observed: the API server must not invent parts of it.
fn strip_defaults(schema: &mut JSONSchemaProps) {
    schema.default = None;
    each_subschema(schema, strip_defaults);
}

fn typed(kind: &str) -> JSONSchemaProps {
    JSONSchemaProps { type_: Some(kind.to_owned()), ..JSONSchemaProps::default() }
}

fn each_subschema(schema: &mut JSONSchemaProps, visit: fn(&mut JSONSchemaProps)) {
    schema.properties.iter_mut().flat_map(|properties| properties.values_mut()).for_each(visit);
    match schema.items.as_mut() {
        Some(JSONSchemaPropsOrArray::Schema(item)) => visit(item),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(visit),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(value)) = schema.additional_properties.as_mut() {
        visit(value);
    }
    for alternatives in [&mut schema.all_of, &mut schema.any_of, &mut schema.one_of] {
        alternatives.iter_mut().flatten().for_each(visit);
    }
}
