//! Which default images a cluster runs: those that it took over once, until its user acknowledges or asks for newer ones.
//!
//! The record of what was taken over is an annotation of the cluster, written together with the finalizer; the status is the second
//! best, so that neither a lost status nor a lost annotation changes what runs. Images that the spec names take effect at once and
//! are no concern of this module.

use shared::{
    annotation::{APPLIED_IMAGES, FULLY_PINNED},
    api::v1alpha1::{
        ClusterImages, ClusterImagesStatus, ComponentImages, ImageSource, ImageUpdateStrategy, MultigresCluster,
    },
    image::{self, ImageSet},
    resolve::ResolvedCluster,
};

use super::Refusal;
use crate::{plan::Note, settings::Settings, workload::revision::Adoption};

/// What a cluster takes from the defaults of the operator.
#[derive(Clone, Debug, PartialEq)]
pub struct Adopted {
    /// Images of the components for which the spec names none.
    pub applied: ImageSet,
    /// What the operator brings.
    pub available: ImageSet,
    /// The strategy in force.
    pub strategy: ImageUpdateStrategy,
    /// How the two sets stand to each other.
    pub state: State,
    /// What the record has to say, where it says something else.
    pub record: Option<String>,
    /// What a user should know.
    pub notes: Vec<Note>,
}

/// How the images of a cluster stand to those that the operator brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// They are the same.
    UpToDate,
    /// Every image is named in the spec.
    FullyPinned,
    /// Newer ones wait for the user's word.
    AwaitingAcknowledgement,
    /// Newer ones wait, and what the user acknowledged is neither the new set nor the old one.
    RevisionMismatch,
    /// Newer ones wait, because the user wants none.
    Paused,
    /// The record cannot be read, so nobody knows what should run.
    RecordInvalid,
}

/// What is known about the images that a cluster took over.
#[derive(Clone, Debug, Default, PartialEq)]
struct Record {
    images: Option<ImageSet>,
    /// Whether the annotation says exactly that.
    written: bool,
    /// Whether the annotation cannot be read.
    invalid: bool,
    tombstone: bool,
}

impl Record {
    fn of(cluster: &MultigresCluster) -> Self {
        let text = cluster.metadata.annotations.as_ref().and_then(|all| all.get(APPLIED_IMAGES));
        if text.is_some_and(|text| text == FULLY_PINNED) {
            return Self { tombstone: true, ..Self::default() };
        }
        let parsed = text.and_then(|text| serde_json::from_str::<ComponentImages>(text).ok());
        if let Some(images) = parsed.as_ref().and_then(ImageSet::complete) {
            return Self { images: Some(images), written: true, ..Self::default() };
        }
        let status = cluster.status.as_ref().and_then(|status| status.images.as_ref());
        let images = status.and_then(|images| images.applied.as_ref()).and_then(ImageSet::complete);
        Self { images, invalid: text.is_some(), ..Self::default() }
    }
}

impl Adopted {
    /// Decides what a cluster runs.
    pub fn of(cluster: &MultigresCluster, settings: &Settings) -> Self {
        let policy = cluster.spec.image_update_policy.clone().unwrap_or_default();
        let strategy = policy.strategy.unwrap_or(settings.image_update_strategy);
        let available = settings.images.clone();
        let record = Record::of(cluster);
        let pins = cluster.spec.images.as_ref().map(ClusterImages::components).unwrap_or_default();
        let mut adopted = Self {
            applied: available.clone(),
            available,
            strategy,
            state: State::UpToDate,
            record: None,
            notes: vec![],
        };
        if image::source(&pins) == ImageSource::Explicit {
            adopted.state = State::FullyPinned;
            adopted.record = (!record.tombstone).then(|| FULLY_PINNED.to_owned());
            return adopted;
        }
        if record.invalid {
            adopted.warn("ImagesRecordInvalid", format!("annotation {APPLIED_IMAGES} cannot be read"));
        }
        let acknowledged = policy.acknowledged_revision.filter(|revision| !revision.is_empty());
        adopted.choose(&record, acknowledged.as_deref());
        if adopted.state != State::RecordInvalid
            && !(record.written && record.images.as_ref() == Some(&adopted.applied))
        {
            adopted.record = serde_json::to_string(&ComponentImages::from(adopted.applied.clone())).ok();
        }
        adopted
    }

    fn choose(&mut self, record: &Record, acknowledged: Option<&str>) {
        let new = self.available.revision();
        let Some(images) = &record.images else {
            // Without any record the cluster is new, or leaves images of its own.
            if record.invalid && self.strategy != ImageUpdateStrategy::Immediate {
                self.state = State::RecordInvalid;
            }
            return;
        };
        let old = images.revision();
        let is = |revision: &str| acknowledged == Some(revision);
        match self.strategy {
            _ if old == new => return,
            ImageUpdateStrategy::Immediate => {
                if let Some(other) = acknowledged.filter(|revision| *revision != new && *revision != old) {
                    let message =
                        format!("acknowledgedRevision {other} has no effect while images are taken over at once");
                    self.warn("ImagesAcknowledgementIgnored", message);
                }
            }
            ImageUpdateStrategy::Paused => {
                if is(&new) {
                    let message = format!("acknowledgedRevision {new} has no effect while the update policy is paused");
                    self.warn("ImagesAcknowledgementIgnored", message);
                }
                self.state = State::Paused;
                self.applied = images.clone();
                return;
            }
            ImageUpdateStrategy::Lazy if is(&new) => {}
            ImageUpdateStrategy::Lazy => {
                let awaited = acknowledged.is_none() || is(&old);
                self.state = if awaited { State::AwaitingAcknowledgement } else { State::RevisionMismatch };
                if !awaited {
                    let given = acknowledged.unwrap_or_default();
                    let message =
                        format!("acknowledgedRevision {given} is neither the current revision {old} nor {new}");
                    self.warn("ImagesRevisionMismatch", message);
                }
                self.applied = images.clone();
                return;
            }
        }
        let message = format!("default images change from revision {old} to {new}: {}", changes(images, &self.applied));
        self.notes.push(Note::normal("ImagesUpdated", message));
    }

    fn warn(&mut self, reason: &str, message: String) {
        self.notes.push(Note::warning(reason, message));
    }

    /// Why nothing can be carried out.
    pub fn refusal(&self) -> Option<Refusal> {
        (self.state == State::RecordInvalid).then(|| Refusal {
            reason: "ImagesRecordInvalid".to_owned(),
            message: format!(
                "annotation {APPLIED_IMAGES} cannot be read, so it is not known which images should run; remove it to take over \
                 the current ones, or restore it"
            ),
        })
    }

    /// Whether new renderings of workloads are taken over at once, too.
    pub fn adoption(&self) -> Adoption {
        match self.strategy {
            ImageUpdateStrategy::Immediate => Adoption::Immediate,
            ImageUpdateStrategy::Lazy => Adoption::Lazy,
            ImageUpdateStrategy::Paused => Adoption::Paused,
        }
    }

    /// Why nothing that would restart a pod happens, where the user wants it so.
    pub fn paused(&self) -> Option<&'static str> {
        (self.strategy == ImageUpdateStrategy::Paused).then_some(
            "imageUpdatePolicy.strategy is paused: new default images, and all changes that would restart pods, wait until it is \
             lazy or immediate",
        )
    }

    /// Status, reason and text of the condition `ImageRolloutPending`.
    pub fn pending(&self) -> (bool, &'static str, String) {
        let new = self.available.revision();
        match self.state {
            State::FullyPinned => (false, "FullyPinned", "every image is named in the spec".to_owned()),
            State::UpToDate | State::RecordInvalid => {
                (false, "UpToDate", "the current default images are applied".to_owned())
            }
            State::AwaitingAcknowledgement => (
                true,
                "AwaitingAcknowledgement",
                format!(
                    "new default images are available: set imageUpdatePolicy.acknowledgedRevision to {new} to take them over"
                ),
            ),
            State::Paused => (
                true,
                "Paused",
                "new default images are available; they wait as long as imageUpdatePolicy.strategy is paused"
                    .to_owned(),
            ),
            State::RevisionMismatch => (
                true,
                "RevisionMismatch",
                format!(
                    "the acknowledged revision is not on offer: set imageUpdatePolicy.acknowledgedRevision to {new}"
                ),
            ),
        }
    }

    /// The images in use and on offer.
    pub fn status(&self, resolved: &ResolvedCluster) -> ClusterImagesStatus {
        let effective = ComponentImages::from(resolved.images.clone());
        if self.state == State::FullyPinned {
            return ClusterImagesStatus { effective, source: ImageSource::Explicit, ..ClusterImagesStatus::default() };
        }
        ClusterImagesStatus {
            update_strategy: Some(self.strategy),
            effective,
            source: resolved.image_source,
            applied: Some(self.applied.clone().into()),
            applied_revision: Some(self.applied.revision()),
            available: Some(self.available.clone().into()),
            available_revision: Some(self.available.revision()),
        }
    }
}

/// Which components get another image.
fn changes(old: &ImageSet, new: &ImageSet) -> String {
    let pairs = [
        ("multigateway", &old.multigateway, &new.multigateway),
        ("multiorch", &old.multiorch, &new.multiorch),
        ("multipooler", &old.multipooler, &new.multipooler),
        ("multiadmin", &old.multiadmin, &new.multiadmin),
        ("multiadminWeb", &old.multiadmin_web, &new.multiadmin_web),
        ("postgres", &old.postgres, &new.postgres),
    ];
    let changed = pairs.into_iter().filter(|(_, old, new)| old != new);
    changed.map(|(name, _, new)| format!("{name} {new}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::workload::fixture::settings;

    fn new() -> ImageSet {
        ImageSet { postgres: "pg:2".into(), ..ImageSet::default() }
    }

    fn cluster(policy: &serde_json::Value, record: Option<&str>) -> MultigresCluster {
        let mut cluster: MultigresCluster = serde_json::from_value(json!({
            "apiVersion": "multigres.com/v1alpha1", "kind": "MultigresCluster", "metadata": {"name": "c"},
            "spec": {"imageUpdatePolicy": policy},
        }))
        .unwrap();
        let record = record.map(|text| (APPLIED_IMAGES.to_owned(), text.to_owned()));
        cluster.metadata.annotations = Some(record.into_iter().collect());
        cluster
    }

    fn text(images: ImageSet) -> String {
        serde_json::to_string(&ComponentImages::from(images)).unwrap()
    }

    fn adopted(cluster: &MultigresCluster) -> Adopted {
        Adopted::of(cluster, &Settings { images: new(), ..settings() })
    }

    const OLD: &str = "51818592d94d";

    #[rstest]
    #[case::lazy(json!({}), false, State::AwaitingAcknowledgement, &[])]
    #[case::old_again(json!({"acknowledgedRevision": OLD}), false, State::AwaitingAcknowledgement, &[])]
    #[case::something_else(json!({"acknowledgedRevision": "abc"}), false, State::RevisionMismatch, &["ImagesRevisionMismatch"])]
    #[case::acknowledged(json!({"acknowledgedRevision": "NEW"}), true, State::UpToDate, &["ImagesUpdated"])]
    #[case::immediate(json!({"strategy": "immediate"}), true, State::UpToDate, &["ImagesUpdated"])]
    #[case::paused(json!({"strategy": "paused"}), false, State::Paused, &[])]
    #[case::paused_and_acknowledged(
        json!({"strategy": "paused", "acknowledgedRevision": "NEW"}), false, State::Paused, &["ImagesAcknowledgementIgnored"]
    )]
    #[case::ignored(
        json!({"strategy": "immediate", "acknowledgedRevision": "abc"}), true, State::UpToDate, &["ImagesAcknowledgementIgnored", "ImagesUpdated"]
    )]
    fn new_defaults_meet_a_recorded_set(
        #[case] mut policy: serde_json::Value,
        #[case] taken: bool,
        #[case] state: State,
        #[case] notes: &[&str],
    ) {
        if policy["acknowledgedRevision"] == "NEW" {
            policy["acknowledgedRevision"] = new().revision().into();
        }
        let adopted = adopted(&cluster(&policy, Some(&text(ImageSet::default()))));
        assert_eq!((adopted.state, adopted.applied == new()), (state, taken));
        assert_eq!(adopted.record, taken.then(|| text(new())));
        assert_eq!(adopted.notes.iter().map(|note| note.reason.as_str()).collect::<Vec<_>>(), notes);
        assert_eq!(adopted.pending().0, !taken);
    }

    #[test]
    fn a_new_cluster_takes_what_the_operator_brings_and_records_it() {
        let first = adopted(&cluster(&json!({}), None));
        assert_eq!((first.applied == new(), first.state, first.notes.len()), (true, State::UpToDate, 0));
        assert_eq!(first.record, Some(text(new())));
        let next = adopted(&cluster(&json!({}), first.record.as_deref()));
        assert_eq!((next.applied, next.record), (first.applied, None));
    }

    #[test]
    fn the_status_stands_in_for_a_lost_record() {
        for record in [None, Some("{}"), Some("")] {
            let mut cluster = cluster(&json!({}), record);
            let images =
                ClusterImagesStatus { applied: Some(ImageSet::default().into()), ..ClusterImagesStatus::default() };
            cluster.status.get_or_insert_default().images = Some(images);
            let adopted = adopted(&cluster);
            assert_eq!((adopted.refusal(), &adopted.applied), (None, &ImageSet::default()));
            assert_eq!(adopted.record, Some(text(ImageSet::default())));
        }
    }

    #[test]
    fn a_record_that_cannot_be_read_stops_all_but_immediate_clusters() {
        let broken = |policy: &serde_json::Value| adopted(&cluster(policy, Some("{\"postgres\": \"a\"}")));
        for strategy in [json!({}), json!({"strategy": "paused"})] {
            let careful = broken(&strategy);
            assert_eq!((careful.refusal().is_some(), careful.record), (true, None));
        }
        let immediate = broken(&json!({"strategy": "immediate"}));
        assert_eq!((immediate.refusal(), immediate.record), (None, Some(text(new()))));
        assert_eq!(immediate.notes[0].reason, "ImagesRecordInvalid");
    }

    #[test]
    fn a_cluster_that_names_all_images_has_a_tombstone_and_leaves_it_with_the_current_ones() {
        let mut pinned = cluster(&json!({}), Some(&text(ImageSet::default())));
        pinned.spec.images = serde_json::from_value(json!({
            "multigateway": "a", "multiorch": "b", "multipooler": "c", "multiadmin": "d", "multiadminWeb": "e", "postgres": "f",
        }))
        .unwrap();
        let first = adopted(&pinned);
        assert_eq!((first.state, first.record.as_deref()), (State::FullyPinned, Some(FULLY_PINNED)));
        pinned.metadata.annotations = Some([(APPLIED_IMAGES.to_owned(), FULLY_PINNED.to_owned())].into());
        assert_eq!(adopted(&pinned).record, None);
        pinned.spec.images = None;
        assert_eq!(adopted(&pinned).applied, new());
    }
}
