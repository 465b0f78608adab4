//! One request of an account of the operator, as the audit log tells of it.

use serde_json::Value;
use shared::label;

use super::Account;

/// Verbs that show many objects at once.
const COLLECTIONS: [&str; 3] = ["list", "watch", "deletecollection"];
/// Resources of the core group of which others have many, and whose content is nobody's business.
const OF_OTHERS: [&str; 2] = ["secrets", "configmaps"];

/// A request of one of the two accounts.
pub(super) struct Request<'e> {
    pub(super) account: Account,
    pub(super) group: &'e str,
    pub(super) resource: String,
    /// What it needed the right to.
    pub(super) verbs: Vec<&'e str>,
    pub(super) name: &'e str,
    pub(super) namespace: &'e str,
    pub(super) uri: &'e str,
    pub(super) refused: bool,
    pub(super) message: &'e str,
}

impl<'e> Request<'e> {
    /// Reads an event; none where it is somebody else's, or tells of no answer.
    pub(super) fn of(event: &'e Value) -> Option<Self> {
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        // A watch that goes on has only begun to be answered.
        if !["ResponseStarted", "ResponseComplete"].contains(&text("/stage")) {
            return None;
        }
        let account = Account::of_user(text("/user/username"))?;
        let code = event.pointer("/responseStatus/code").and_then(Value::as_u64).unwrap_or_default();
        let below = event.pointer("/objectRef/subresource").and_then(Value::as_str);
        let below = below.map(|below| format!("/{below}")).unwrap_or_default();
        let mut verbs = vec![text("/verb")];
        // An apply that makes its object is asked for both rights.
        if verbs == ["patch"] && code == 201 {
            verbs.push("create");
        }
        Some(Self {
            account,
            group: text("/objectRef/apiGroup"),
            resource: format!("{}{below}", text("/objectRef/resource")),
            verbs,
            name: text("/objectRef/name"),
            namespace: text("/objectRef/namespace"),
            uri: text("/requestURI"),
            refused: code == 403,
            message: text("/responseStatus/message"),
        })
    }

    /// Whether it shows the controller objects of others, too. None where it is of another kind.
    pub(super) fn sees_others(&self) -> Option<bool> {
        let collection = self.verbs.iter().any(|verb| COLLECTIONS.contains(verb));
        let concerned = collection && self.group.is_empty() && OF_OTHERS.contains(&self.resource.as_str());
        (concerned && self.account == Account::Controller).then(|| selector(self.uri).as_deref() != Some(label::OURS))
    }
}

/// The label selector of a request.
fn selector(uri: &str) -> Option<String> {
    let (_, query) = uri.split_once('?')?;
    query.split('&').find_map(|pair| pair.strip_prefix("labelSelector=")).map(decoded)
}

fn decoded(text: &str) -> String {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let (byte, left) = match (*first, tail) {
            (b'%', [high, low, left @ ..]) => hexadecimal(*high, *low).map_or((b'%', tail), |byte| (byte, left)),
            (b'+', _) => (b' ', tail),
            (byte, _) => (byte, tail),
        };
        plain.push(byte);
        rest = left;
    }
    String::from_utf8_lossy(&plain).into_owned()
}

fn hexadecimal(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? * 16 + digit(low)?)
}
