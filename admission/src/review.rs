//! What the API server asks and what it is answered, free of HTTP.

pub mod text;

use futures::future::BoxFuture;
use serde::Deserialize;
use serde_json::value::RawValue;
use shared::validate::{FieldError, Verdict, reason};

/// One of the paths that a webhook configuration points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, strum::EnumIter)]
pub enum Endpoint {
    /// Writes what has to be stored into a MultigresCluster.
    MutateCluster,
    /// Judges a MultigresCluster.
    ValidateCluster,
    /// Judges a CoreTemplate.
    ValidateCoreTemplate,
    /// Judges a CellTemplate.
    ValidateCellTemplate,
    /// Judges a ShardTemplate.
    ValidateShardTemplate,
    /// Judges a MultigresBackup.
    ValidateBackup,
    /// Guards a Cell.
    ValidateCell,
    /// Guards a Shard, its scale included.
    ValidateShard,
    /// Guards a TableGroup.
    ValidateTableGroup,
    /// Guards a TopoServer.
    ValidateTopoServer,
}

impl Endpoint {
    /// The path, which is the Go operator's.
    pub fn path(self) -> &'static str {
        match self {
            Self::MutateCluster => "/mutate-multigres-com-v1alpha1-multigrescluster",
            Self::ValidateCluster => "/validate-multigres-com-v1alpha1-multigrescluster",
            Self::ValidateCoreTemplate => "/validate-multigres-com-v1alpha1-coretemplate",
            Self::ValidateCellTemplate => "/validate-multigres-com-v1alpha1-celltemplate",
            Self::ValidateShardTemplate => "/validate-multigres-com-v1alpha1-shardtemplate",
            Self::ValidateBackup => "/validate-multigres-com-v1alpha1-multigresbackup",
            Self::ValidateCell => "/validate-multigres-com-v1alpha1-cell",
            Self::ValidateShard => "/validate-multigres-com-v1alpha1-shard",
            Self::ValidateTableGroup => "/validate-multigres-com-v1alpha1-tablegroup",
            Self::ValidateTopoServer => "/validate-multigres-com-v1alpha1-toposerver",
        }
    }

    /// The kind of the objects that arrive here; also the metric label `resource`.
    pub fn kind(self) -> &'static str {
        match self {
            Self::MutateCluster | Self::ValidateCluster => "MultigresCluster",
            Self::ValidateCoreTemplate => "CoreTemplate",
            Self::ValidateCellTemplate => "CellTemplate",
            Self::ValidateShardTemplate => "ShardTemplate",
            Self::ValidateBackup => "MultigresBackup",
            Self::ValidateCell => "Cell",
            Self::ValidateShard => "Shard",
            Self::ValidateTableGroup => "TableGroup",
            Self::ValidateTopoServer => "TopoServer",
        }
    }

    /// The metric label `operation`: `DEFAULT` or `VALIDATE`.
    pub fn operation(self) -> &'static str {
        if self == Self::MutateCluster { "DEFAULT" } else { "VALIDATE" }
    }
}

/// What is being done to the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, strum::Display)]
#[serde(rename_all = "UPPERCASE")]
pub enum Operation {
    /// A new object.
    Create,
    /// A changed object.
    Update,
    /// An object to delete.
    Delete,
    /// A connection to a subresource.
    Connect,
}

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct User {
    /// User name, such as `system:serviceaccount:NAMESPACE:NAME`.
    #[serde(default)]
    pub username: String,
    /// Groups.
    #[serde(default)]
    pub groups: Vec<String>,
}

/// The request of an AdmissionReview; objects stay text until somebody needs them.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request<'a> {
    /// What the answer must repeat.
    pub uid: String,
    /// What is being done.
    pub operation: Operation,
    /// Name of the object; empty when the server has yet to generate it.
    #[serde(default)]
    pub name: String,
    /// Namespace of the object.
    #[serde(default)]
    pub namespace: String,
    /// Subresource, such as `scale`.
    #[serde(default)]
    pub sub_resource: Option<String>,
    /// Who asks.
    #[serde(default)]
    pub user_info: User,
    /// The object as it would be; absent on DELETE.
    #[serde(borrow, default)]
    pub object: Option<&'a RawValue>,
    /// The object as it is; absent on CREATE.
    #[serde(borrow, default)]
    pub old_object: Option<&'a RawValue>,
    /// Whether nothing will be stored.
    #[serde(default)]
    pub dry_run: Option<bool>,
}

/// One fault, as it goes into `status.details.causes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// A machine-readable cause, such as `FieldValueInvalid`.
    pub reason: &'static str,
    /// Path of the field.
    pub field: String,
    /// The fault and its remedy.
    pub message: String,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// HTTP status of the refusal: 403 for a judgement, 400 for what cannot be read, 500 or 503 for what may be tried again.
    pub code: u16,
    /// Kubernetes reason, such as `Forbidden`, `Invalid`, `BadRequest`, `ServiceUnavailable`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// Everything that is wrong, in a stable order.
    pub causes: Vec<Cause>,
}

impl Denial {
    /// What [`rules`](Self::rules) may name.
    pub const RULES: [&'static str; 7] = [
        reason::INVALID,
        reason::NOT_FOUND,
        reason::FORBIDDEN,
        reason::DUPLICATE,
        reason::REQUIRED,
        "Forbidden",
        "BadRequest",
    ];

    /// The kinds of rules that were broken, each once: those of its causes, or the refusal's own reason where it has none.
    pub fn rules(&self) -> Vec<&'static str> {
        let mut rules: Vec<&'static str> = self.causes.iter().map(|cause| cause.reason).collect();
        rules.sort_unstable();
        rules.dedup();
        if rules.is_empty() {
            rules.push(self.reason);
        }
        rules
    }

    /// A judgement against the request.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self { code: 403, reason: "Forbidden", message: message.into(), causes: Vec::new() }
    }

    /// An object that cannot be read.
    pub fn unreadable(message: impl Into<String>) -> Self {
        Self { code: 400, reason: "BadRequest", message: message.into(), causes: Vec::new() }
    }

    /// A judgement that could not be made now; the same request may be sent again.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { code: 503, reason: "ServiceUnavailable", message: message.into(), causes: Vec::new() }
    }

    /// The refusal that follows from a verdict; none when nothing speaks against the object.
    pub fn of(verdict: &Verdict) -> Option<Self> {
        let message = match verdict.errors.as_slice() {
            [] => return None,
            [one] => one.to_string(),
            many => format!("{} errors: {}", many.len(), verdict.summary()),
        };
        Some(Self { causes: verdict.errors.iter().map(Cause::of).collect(), ..Self::forbidden(message) })
    }
}

impl Cause {
    /// The cause that stands for an error; the field is named from the root of the object.
    pub fn of(error: &FieldError) -> Self {
        Self { reason: error.reason, field: error.field(), message: error.to_string() }
    }
}

/// The answer to a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Why not; none means allowed.
    pub denial: Option<Denial>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// What to change in the object; none for nothing.
    pub patch: Option<json_patch::Patch>,
}

impl Answer {
    /// A refusal.
    pub fn denied(denial: Denial) -> Self {
        Self { denial: Some(denial), ..Self::default() }
    }

    /// The answer that follows from a verdict.
    pub fn of(verdict: &Verdict) -> Self {
        Self {
            denial: Denial::of(verdict),
            warnings: verdict.warnings.iter().map(ToString::to_string).collect(),
            patch: None,
        }
    }
}

/// Answers requests.
pub trait Review: Send + Sync + 'static {
    /// Answers one request.
    fn review<'a>(&'a self, endpoint: Endpoint, request: Request<'a>) -> BoxFuture<'a, Answer>;
}
