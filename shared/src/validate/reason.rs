//! Reasons of findings, as the API server spells the causes of its own refusals.

/// The value is wrong.
pub const INVALID: &str = "FieldValueInvalid";
/// What the value names does not exist.
pub const NOT_FOUND: &str = "FieldValueNotFound";
/// The field may not be given, or not be changed.
pub const FORBIDDEN: &str = "FieldValueForbidden";
/// The value is there twice.
pub const DUPLICATE: &str = "FieldValueDuplicate";
/// The field has to be given.
pub const REQUIRED: &str = "FieldValueRequired";
