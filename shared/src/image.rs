//! The default images, how the operator's environment replaces them, and the revision that names a set of them.

use sha2::{Digest as _, Sha256};

use crate::api::v1alpha1::{ComponentImages, ImageSource};

/// Image of etcd, where an etcd spec names none.
pub const ETCD: &str = "gcr.io/etcd-development/etcd:v3.6.7";
/// Image of the PostgreSQL metrics exporter.
pub const POSTGRES_EXPORTER: &str = "quay.io/prometheuscommunity/postgres-exporter:v0.20.1";

const POSTGRES: &str = "ghcr.io/multigres/pgctld:sha-66d2310";
const MULTIGRES: &str = "ghcr.io/multigres/multigres:sha-66d2310";
const MULTIADMIN_WEB: &str = "ghcr.io/multigres/multiadmin-web:sha-64da1ab";

/// One image for each component.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageSet {
    /// Image of the gateway.
    pub multigateway: String,
    /// Image of the orchestrator.
    pub multiorch: String,
    /// Image of the pooler.
    pub multipooler: String,
    /// Image of the management API.
    pub multiadmin: String,
    /// Image of the management web page.
    pub multiadmin_web: String,
    /// Image with PostgreSQL, pgctld and pgBackRest.
    pub postgres: String,
}

impl Default for ImageSet {
    /// Returns the images that this version of the operator was built for.
    fn default() -> Self {
        Self {
            multigateway: MULTIGRES.to_owned(),
            multiorch: MULTIGRES.to_owned(),
            multipooler: MULTIGRES.to_owned(),
            multiadmin: MULTIGRES.to_owned(),
            multiadmin_web: MULTIADMIN_WEB.to_owned(),
            postgres: POSTGRES.to_owned(),
        }
    }
}

impl ImageSet {
    /// The environment variables of the operator that replace a default image, each with its component.
    pub const VARIABLES: [&str; 6] = [
        "MULTIGRES_IMAGE_MULTIGATEWAY",
        "MULTIGRES_IMAGE_MULTIORCH",
        "MULTIGRES_IMAGE_MULTIPOOLER",
        "MULTIGRES_IMAGE_MULTIADMIN",
        "MULTIGRES_IMAGE_MULTIADMIN_WEB",
        "MULTIGRES_IMAGE_POSTGRES",
    ];

    /// Replaces images by what `lookup` knows for [`Self::VARIABLES`]; blank values do not count.
    #[must_use]
    pub fn overridden(mut self, lookup: impl Fn(&str) -> Option<String>) -> Self {
        for (variable, image) in Self::VARIABLES.into_iter().zip(self.members_mut()) {
            replace(image, lookup(variable));
        }
        self
    }

    /// Returns what a cluster runs: the images that it pins, and this set for the others.
    #[must_use]
    pub fn pinned(mut self, pins: &ComponentImages) -> Self {
        for (pin, image) in members(pins).into_iter().zip(self.members_mut()) {
            if let Some(pin) = pin {
                pin.clone_into(image);
            }
        }
        self
    }

    /// Returns the name of this set: equal sets have equal revisions.
    ///
    /// Users copy it into `acknowledgedRevision`, so it must not change between versions of the operator.
    pub fn revision(&self) -> String {
        let lines = [
            format!("multiadmin={}", self.multiadmin),
            format!("multiadminweb={}", self.multiadmin_web),
            format!("multigateway={}", self.multigateway),
            format!("multiorch={}", self.multiorch),
            format!("multipooler={}", self.multipooler),
            format!("postgres={}", self.postgres),
        ];
        let mut digest = hex::encode(Sha256::digest(lines.join("\n").as_bytes()));
        digest.truncate(12);
        digest
    }

    /// Reads a recorded set; none unless it names every component.
    pub fn complete(images: &ComponentImages) -> Option<Self> {
        let all = members(images);
        all.iter().all(Option::is_some).then(|| Self::default().pinned(images))
    }

    fn members_mut(&mut self) -> [&mut String; 6] {
        [
            &mut self.multigateway,
            &mut self.multiorch,
            &mut self.multipooler,
            &mut self.multiadmin,
            &mut self.multiadmin_web,
            &mut self.postgres,
        ]
    }
}

impl From<ImageSet> for ComponentImages {
    fn from(set: ImageSet) -> Self {
        Self {
            multigateway: Some(set.multigateway),
            multiorch: Some(set.multiorch),
            multipooler: Some(set.multipooler),
            multiadmin: Some(set.multiadmin),
            multiadmin_web: Some(set.multiadmin_web),
            postgres: Some(set.postgres),
        }
    }
}

/// Images of what runs beside the components. They are no part of a revision: a workload takes over a new one when it is rendered anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SupportImages {
    /// Image of etcd, where an etcd spec names none.
    pub etcd: String,
    /// Image of the PostgreSQL metrics exporter.
    pub postgres_exporter: String,
}

impl Default for SupportImages {
    /// Returns the images that this version of the operator was tested with.
    fn default() -> Self {
        Self { etcd: ETCD.to_owned(), postgres_exporter: POSTGRES_EXPORTER.to_owned() }
    }
}

impl SupportImages {
    /// The environment variables of the operator that replace a default image.
    pub const VARIABLES: [&str; 2] = ["MULTIGRES_IMAGE_ETCD", "MULTIGRES_IMAGE_POSTGRES_EXPORTER"];

    /// Replaces images by what `lookup` knows for [`Self::VARIABLES`]; blank values do not count.
    #[must_use]
    pub fn overridden(mut self, lookup: impl Fn(&str) -> Option<String>) -> Self {
        for (variable, image) in Self::VARIABLES.into_iter().zip([&mut self.etcd, &mut self.postgres_exporter]) {
            replace(image, lookup(variable));
        }
        self
    }
}

/// Takes over what a variable says, if it says anything.
fn replace(image: &mut String, value: Option<String>) {
    if let Some(value) = value.map(|value| value.trim().to_owned()).filter(|value| !value.is_empty()) {
        *image = value;
    }
}

/// Returns where the images of a cluster with these pins come from.
pub fn source(pins: &ComponentImages) -> ImageSource {
    match members(pins).iter().filter(|pin| pin.is_some()).count() {
        0 => ImageSource::Defaults,
        6 => ImageSource::Explicit,
        _ => ImageSource::Mixed,
    }
}

/// The images in the order of [`ImageSet::VARIABLES`]; an empty image counts as none.
fn members(images: &ComponentImages) -> [Option<&str>; 6] {
    [
        &images.multigateway,
        &images.multiorch,
        &images.multipooler,
        &images.multiadmin,
        &images.multiadmin_web,
        &images.postgres,
    ]
    .map(|image| image.as_deref().filter(|image| !image.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_match_the_vectors() {
        assert_eq!(ImageSet::default().revision(), "51818592d94d");
        let set = ImageSet {
            multiadmin: "a".to_owned(),
            multiadmin_web: "b".to_owned(),
            multigateway: "c".to_owned(),
            multiorch: "d".to_owned(),
            multipooler: "e".to_owned(),
            postgres: "f".to_owned(),
        };
        assert_eq!(set.revision(), "4a45ed8c8ba3");
    }

    #[test]
    fn environment_replaces_the_image_of_its_component() {
        for variable in ImageSet::VARIABLES {
            let set = ImageSet::default().overridden(|name| (name == variable).then(|| " mine:1 ".to_owned()));
            let component = variable.trim_start_matches("MULTIGRES_IMAGE_").to_lowercase();
            let images = serde_json::to_value(ComponentImages::from(set)).unwrap();
            let changed: Vec<String> = images
                .as_object()
                .unwrap()
                .iter()
                .filter(|(_, image)| *image == "mine:1")
                .map(|(key, _)| key.replace("Web", "_web"))
                .collect();
            assert_eq!(changed, [component]);
        }
        assert_eq!(ImageSet::default().overridden(|_| Some(" ".to_owned())), ImageSet::default());
    }

    #[test]
    fn environment_replaces_the_images_beside_the_components() {
        let set = SupportImages::default()
            .overridden(|name| (name == "MULTIGRES_IMAGE_POSTGRES_EXPORTER").then(|| " mine:1 ".to_owned()));
        assert_eq!((set.etcd.as_str(), set.postgres_exporter.as_str()), (ETCD, "mine:1"));
        let set =
            SupportImages::default().overridden(|name| (name == "MULTIGRES_IMAGE_ETCD").then(|| "e:1".to_owned()));
        assert_eq!((set.etcd.as_str(), set.postgres_exporter.as_str()), ("e:1", POSTGRES_EXPORTER));
        assert_eq!(SupportImages::default().overridden(|_| Some(" ".to_owned())), SupportImages::default());
    }

    #[test]
    fn pins_win_and_decide_about_the_source() {
        let mut pins = ComponentImages::default();
        assert_eq!(source(&pins), ImageSource::Defaults);
        pins.postgres = Some("mine:1".to_owned());
        assert_eq!(source(&pins), ImageSource::Mixed);
        let set = ImageSet::default().pinned(&pins);
        assert_eq!(set.postgres, "mine:1");
        assert_eq!(set.multiorch, MULTIGRES);
        assert_eq!(ImageSet::complete(&pins), None);
        let full = ComponentImages::from(set.clone());
        assert_eq!(source(&full), ImageSource::Explicit);
        assert_eq!(ImageSet::complete(&full), Some(set));
    }
}
