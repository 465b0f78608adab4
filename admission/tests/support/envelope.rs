//! Questions as the API server writes them, and answers as it reads them.

use serde_json::{Value, json};

/// Who asks where a test does not care.
pub const USER: &str = "kubernetes-admin";

/// What a request is about.
#[derive(Clone, Debug)]
pub struct Question {
    /// Kind of the object.
    pub kind: String,
    /// Namespace of the object.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
    /// Who asks.
    pub user: String,
    /// The object before.
    pub old: Option<Value>,
    /// The object as it would be.
    pub object: Option<Value>,
}

impl Question {
    /// The creation of an object.
    pub fn create(object: &Value) -> Self {
        Self {
            kind: text(&object["kind"]),
            namespace: text(&object["metadata"]["namespace"]),
            name: text(&object["metadata"]["name"]),
            user: USER.to_owned(),
            old: None,
            object: Some(object.clone()),
        }
    }

    /// The change of an object.
    pub fn update(old: &Value, object: &Value) -> Self {
        Self { old: Some(old.clone()), ..Self::create(object) }
    }

    /// The AdmissionReview.
    pub fn review(&self, uid: &str) -> Value {
        let operation = match (&self.old, &self.object) {
            (None, _) => "CREATE",
            (Some(_), Some(_)) => "UPDATE",
            (Some(_), None) => "DELETE",
        };
        let kind = json!({"group": "multigres.com", "version": "v1alpha1", "kind": self.kind});
        let plural = format!("{}s", self.kind.to_lowercase());
        let resource = json!({"group": "multigres.com", "version": "v1alpha1", "resource": plural});
        json!({
            "kind": "AdmissionReview",
            "apiVersion": "admission.k8s.io/v1",
            "request": {
                "uid": uid,
                "kind": kind,
                "resource": resource,
                "requestKind": kind,
                "requestResource": resource,
                "name": self.name,
                "namespace": self.namespace,
                "operation": operation,
                "userInfo": {"username": self.user, "groups": ["system:masters", "system:authenticated"]},
                "object": self.object,
                "oldObject": self.old,
                "dryRun": false,
                "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
            },
        })
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// What was answered, in the terms of the API server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Whether the request may go on.
    pub allowed: bool,
    /// HTTP code of a refusal.
    pub code: u64,
    /// The refusal for people.
    pub message: String,
    /// The causes of a refusal: reason, field and message.
    pub causes: Vec<[String; 3]>,
    /// The warnings.
    pub warnings: Vec<String>,
    /// What to change.
    pub patch: Option<json_patch::Patch>,
}

impl Answer {
    /// Reads an AdmissionReview and checks everything that a server expects of it.
    pub fn read(body: &[u8], uid: &str) -> Result<Self, String> {
        let review: Value = serde_json::from_slice(body).map_err(|error| format!("no JSON: {error}"))?;
        let response = &review["response"];
        let expect = |good: bool, what: &str| if good { Ok(()) } else { Err(format!("{what}: {review}")) };
        expect(review["apiVersion"] == "admission.k8s.io/v1" && review["kind"] == "AdmissionReview", "no review")?;
        expect(response["uid"] == uid, "another uid")?;
        let allowed = response["allowed"].as_bool().ok_or_else(|| format!("no verdict: {review}"))?;
        let status = &response["status"];
        let patch = match response["patch"].as_str() {
            None => None,
            Some(patch) => {
                expect(response["patchType"] == "JSONPatch", "no patch type")?;
                let patch = base64(patch).map_err(|error| format!("no base64: {error}: {review}"))?;
                Some(serde_json::from_slice(&patch).map_err(|error| format!("no patch: {error}: {review}"))?)
            }
        };
        if !allowed {
            expect(patch.is_none(), "a refusal with a patch")?;
            expect(status["code"].as_u64().is_some_and(|code| code >= 400), "a refusal without a code")?;
            expect(status["message"].as_str().is_some_and(|message| !message.is_empty()), "a refusal without words")?;
        }
        let warnings = response["warnings"].as_array().into_iter().flatten().map(text).collect();
        Ok(Self { allowed, warnings, patch, ..Self::status(status) })
    }

    /// Reads the `Status` of a refusal.
    pub fn status(status: &Value) -> Self {
        let causes = status["details"]["causes"].as_array().into_iter().flatten();
        Self {
            allowed: false,
            code: status["code"].as_u64().unwrap_or_default(),
            message: text(&status["message"]),
            causes: causes.map(|cause| ["reason", "field", "message"].map(|key| text(&cause[key]))).collect(),
            warnings: Vec::new(),
            patch: None,
        }
    }
}

fn base64(text: &str) -> Result<Vec<u8>, String> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).map_err(|error| error.to_string())
}
