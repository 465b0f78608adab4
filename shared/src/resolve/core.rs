//! The cluster-wide components and settings: global topology, admin service, images, password.

use k8s_openapi::api::core::v1::LocalObjectReference;

use crate::api::v1alpha1::{
    ClusterImages, ComponentLogLevels, CoreTemplateSpec, EtcdSpec, ExternalTopoServerSpec, GlobalTopoServerRef,
    LogLevel, PodPlacementSpec, PostgresPasswordSecretRef, PullPolicy, StatelessSpec, StorageSpec, TopoServerSpec,
};
use crate::field_path::At;
use crate::image::ImageSet;
use crate::name;

use super::provenance::{Provenance, Source};
use super::template::Selected;
use super::{Context, GlobalTopo, Password, ResolveError, ResolvedStateless, defaults, pvc};

/// The image of each component: the cluster's own, else the operator's.
pub fn images(context: &mut Context<'_>) -> ImageSet {
    let pins = context.spec.images.as_ref().map(ClusterImages::components).unwrap_or_default();
    for (pin, name) in [
        (&pins.multigateway, "images.multigateway"),
        (&pins.multiorch, "images.multiorch"),
        (&pins.multipooler, "images.multipooler"),
        (&pins.multiadmin, "images.multiadmin"),
        (&pins.multiadmin_web, "images.multiadminWeb"),
        (&pins.postgres, "images.postgres"),
    ] {
        note(context, name, pin.as_deref().is_some_and(|pin| !pin.is_empty()));
    }
    context.settings.images.clone().pinned(&pins)
}

/// When and with what images are pulled.
pub fn pull(context: &mut Context<'_>) -> (PullPolicy, Vec<LocalObjectReference>) {
    let images = context.spec.images.clone().unwrap_or_default();
    let given = images.image_pull_policy;
    note(context, "images.imagePullPolicy", given.is_some());
    if !images.image_pull_secrets.is_empty() {
        note(context, "images.imagePullSecrets", true);
    }
    (given.unwrap_or_default(), images.image_pull_secrets)
}

/// The log level of each component.
pub fn log_levels(context: &mut Context<'_>) -> ComponentLogLevels {
    let mut levels = context.spec.log_levels.unwrap_or_default();
    for (level, name) in [
        (&mut levels.pgctld, "logLevels.pgctld"),
        (&mut levels.multipooler, "logLevels.multipooler"),
        (&mut levels.multiorch, "logLevels.multiorch"),
        (&mut levels.multiadmin, "logLevels.multiadmin"),
        (&mut levels.multigateway, "logLevels.multigateway"),
    ] {
        let given = level.is_some();
        level.get_or_insert(LogLevel::Info);
        context.provenance.set(&At::Root(name), if given { &Source::Inline } else { &Source::BuiltIn });
    }
    levels
}

/// Whether stale topology records are removed.
pub fn pruning(context: &mut Context<'_>) -> bool {
    let given = context.spec.topology_pruning.and_then(|pruning| pruning.enabled);
    note(context, "topologyPruning.enabled", given.is_some());
    given.unwrap_or(true)
}

/// The superuser's name.
pub fn superuser(context: &mut Context<'_>) -> String {
    let given = context.spec.postgres_superuser.clone().filter(|name| !name.is_empty());
    note(context, "postgresSuperuser", given.is_some());
    given.unwrap_or_else(|| defaults::SUPERUSER.to_owned())
}

/// Where the password is, or where the operator puts one.
pub fn password(context: &mut Context<'_>, generated_name: String) -> Password {
    let given = context.spec.postgres_password_secret_ref.clone();
    note(context, "postgresPasswordSecretRef", given.is_some());
    let generated = given.is_none();
    let secret_ref = given
        .unwrap_or_else(|| PostgresPasswordSecretRef { name: generated_name, key: defaults::PASSWORD_KEY.to_owned() });
    Password { secret_ref, generated }
}

fn note(context: &mut Context<'_>, path: &str, given: bool) {
    context.provenance.set(&At::Root(path), if given { &Source::Inline } else { &Source::BuiltIn });
}

/// The global topology and how children reach it.
pub fn global_topo(context: &mut Context<'_>, cluster: &str, namespace: &str) -> (GlobalTopo, GlobalTopoServerRef) {
    let spec = context.spec;
    let inline = spec.global_topo_server.clone().unwrap_or_default();
    let selected = context.templates.core(
        inline.template_ref.as_deref(),
        &At::Root("globalTopoServer.templateRef"),
        &mut context.errors,
    );
    let provenance = &mut context.provenance;
    if let Some(mut external) = inline.external {
        let at = &At::Root("globalTopoServer.external");
        provenance.set(at, &Source::Inline);
        if external.endpoints.iter().all(String::is_empty) {
            context.errors.push(ResolveError::NoEndpoint { field: format!("{at}.endpoints") });
        }
        fill_external(provenance, &mut external, at, || defaults::GLOBAL_ROOT.to_owned());
        let reference = GlobalTopoServerRef {
            address: addresses(&external.endpoints),
            root_path: external.root_path.clone().unwrap_or_default(),
            implementation: external.implementation.clone().unwrap_or_default(),
            ca_secret: external.ca_secret.clone().filter(|name| !name.is_empty()),
            client_cert_secret: external.client_cert_secret.clone().filter(|name| !name.is_empty()),
        };
        return (GlobalTopo::External(external), reference);
    }

    let at = &At::Root("globalTopoServer");
    let mut etcd = EtcdSpec::default();
    let mut placement: Option<PodPlacementSpec> = None;
    let images = spec.images.as_ref();
    let given = images.and_then(|images| images.image_pull_policy);
    let mut pull_policy = given.map_or((PullPolicy::default(), Source::BuiltIn), |given| (given, Source::Cluster));
    let secrets = images.map(|images| images.image_pull_secrets.clone()).unwrap_or_default();
    let mut pull_secrets = (secrets, Source::Cluster);
    let mut chain: pvc::Chain = Vec::new();
    chain.push((inline.etcd.as_ref().and_then(|etcd| etcd.pvc_deletion_policy), Source::Inline));
    chain.push((inline.pvc_deletion_policy, Source::Inline));
    chain.push((spec.pvc_deletion_policy, Source::Cluster));
    if let Some((topo, source)) = section(selected.as_ref(), |template| template.global_topo_server.as_ref()) {
        if let Some(template) = &topo.etcd {
            provenance.overlay(&mut etcd, template, &At::Root("globalTopoServer.etcd"), source);
            chain.push((template.pvc_deletion_policy, source.clone()));
        }
        provenance.replace(&mut placement, &topo.placement, &At::Root("globalTopoServer.placement"), source);
        chain.push((topo.pvc_deletion_policy, source.clone()));
        if let Some(given) = topo.image_pull_policy {
            pull_policy = (given, source.clone());
        }
        if !topo.image_pull_secrets.is_empty() {
            pull_secrets = (topo.image_pull_secrets.clone(), source.clone());
        }
    }
    let ((image_pull_policy, policy_source), (image_pull_secrets, secrets_source)) = (pull_policy, pull_secrets);
    provenance.set(&At::Root("globalTopoServer.imagePullPolicy"), &policy_source);
    if !image_pull_secrets.is_empty() {
        provenance.set(&At::Root("globalTopoServer.imagePullSecrets"), &secrets_source);
    }
    if let Some(inline) = &inline.etcd {
        provenance.overlay(&mut etcd, inline, &At::Root("globalTopoServer.etcd"), &Source::Inline);
    }
    provenance.replace(&mut placement, &inline.placement, &At::Root("globalTopoServer.placement"), &Source::Inline);
    let (at_etcd, image) = (At::Root("globalTopoServer.etcd"), &context.settings.etcd_image);
    fill_etcd(provenance, &mut etcd, &at_etcd, image, || defaults::GLOBAL_ROOT.to_owned());
    // The TopoServer carries one policy, above its etcd section.
    etcd.pvc_deletion_policy = None;
    let policy = pvc::resolve(provenance, at, &chain);
    let reference = GlobalTopoServerRef {
        address: format!("{}.{namespace}.svc:{}", name::global_topo(cluster), defaults::ETCD_PORT),
        root_path: etcd.root_path.clone().unwrap_or_default(),
        implementation: defaults::TOPO_IMPLEMENTATION.to_owned(),
        ..GlobalTopoServerRef::default()
    };
    let topo = TopoServerSpec {
        etcd: Some(etcd),
        pvc_deletion_policy: Some(policy),
        placement,
        image_pull_policy: Some(image_pull_policy),
        image_pull_secrets,
    };
    (GlobalTopo::Managed(Box::new(topo)), reference)
}

/// All endpoints as one list of addresses.
fn addresses(endpoints: &[String]) -> String {
    let given: Vec<&str> = endpoints.iter().map(String::as_str).filter(|endpoint| !endpoint.is_empty()).collect();
    given.join(",")
}

/// Applies the defaults of an external topology.
pub fn fill_external(
    provenance: &mut Provenance,
    external: &mut ExternalTopoServerSpec,
    at: &At<'_>,
    root: impl FnOnce() -> String,
) {
    let unset = |text: &Option<String>| text.as_deref().is_none_or(str::is_empty);
    if unset(&external.implementation) {
        external.implementation = None;
    }
    if unset(&external.root_path) {
        external.root_path = None;
    }
    provenance.fill(&mut external.implementation, at, "implementation", || defaults::TOPO_IMPLEMENTATION.to_owned());
    provenance.fill(&mut external.root_path, at, "rootPath", root);
}

/// Applies the defaults of an etcd cluster.
pub fn fill_etcd(
    provenance: &mut Provenance,
    etcd: &mut EtcdSpec,
    at: &At<'_>,
    image: &str,
    root: impl FnOnce() -> String,
) {
    provenance.fill(&mut etcd.image, at, "image", || image.to_owned());
    provenance.fill(&mut etcd.replicas, at, "replicas", || defaults::ETCD_REPLICAS);
    provenance.fill_resources(&mut etcd.resources, at, defaults::etcd_resources);
    provenance.fill(&mut etcd.root_path, at, "rootPath", root);
    fill_storage(provenance, etcd.storage.get_or_insert_default(), &at.field("storage"), defaults::ETCD_STORAGE);
}

/// Applies the defaults of a volume.
pub fn fill_storage(provenance: &mut Provenance, storage: &mut StorageSpec, at: &At<'_>, size: &str) {
    provenance.fill(&mut storage.size, at, "size", || size.to_owned());
    provenance.fill_list(&mut storage.access_modes, at, "accessModes", &[defaults::ACCESS_MODE]);
}

/// The admin service.
pub fn multiadmin(context: &mut Context<'_>, image: String) -> ResolvedStateless {
    let inline = context.spec.multiadmin.clone().unwrap_or_default();
    let selected = context.templates.core(
        inline.template_ref.as_deref(),
        &At::Root("multiadmin.templateRef"),
        &mut context.errors,
    );
    let provenance = &mut context.provenance;
    let mut spec = StatelessSpec::default();
    let mut placement = None;
    if let Some((template, source)) = section(selected.as_ref(), |template| template.multiadmin.as_ref()) {
        provenance.overlay(&mut spec, template, &At::Root("multiadmin"), source);
    }
    if let Some(selected) = &selected {
        provenance.replace(
            &mut placement,
            &selected.spec.multiadmin_placement,
            &At::Root("multiadmin.placement"),
            &selected.source,
        );
    }
    if let Some(inline) = &inline.spec {
        provenance.overlay(&mut spec, inline, &At::Root("multiadmin"), &Source::Inline);
    }
    provenance.replace(&mut placement, &inline.placement, &At::Root("multiadmin.placement"), &Source::Inline);
    provenance.fill(&mut spec.replicas, &At::Root("multiadmin"), "replicas", || defaults::REPLICAS);
    provenance.fill_resources(&mut spec.resources, &At::Root("multiadmin"), defaults::multiadmin_resources);
    ResolvedStateless { spec, placement, image }
}

/// The web interface of the admin service.
pub fn multiadmin_web(context: &mut Context<'_>, image: String) -> ResolvedStateless {
    let inline = context.spec.multiadmin_web.clone().unwrap_or_default();
    let selected = context.templates.core(
        inline.template_ref.as_deref(),
        &At::Root("multiadminWeb.templateRef"),
        &mut context.errors,
    );
    let provenance = &mut context.provenance;
    let mut spec = StatelessSpec::default();
    let mut placement = None;
    if let Some((template, source)) = section(selected.as_ref(), |template| template.multiadmin_web.as_ref()) {
        provenance.overlay(&mut spec, template, &At::Root("multiadminWeb"), source);
    }
    if let Some(selected) = &selected {
        provenance.replace(
            &mut placement,
            &selected.spec.multiadmin_web_placement,
            &At::Root("multiadminWeb.placement"),
            &selected.source,
        );
    }
    if let Some(inline) = &inline.spec {
        provenance.overlay(&mut spec, inline, &At::Root("multiadminWeb"), &Source::Inline);
    }
    provenance.replace(&mut placement, &inline.placement, &At::Root("multiadminWeb.placement"), &Source::Inline);
    provenance.fill(&mut spec.replicas, &At::Root("multiadminWeb"), "replicas", || defaults::REPLICAS);
    provenance.fill_resources(&mut spec.resources, &At::Root("multiadminWeb"), defaults::multiadmin_web_resources);
    ResolvedStateless { spec, placement, image }
}

/// A section of the selected template with its source.
fn section<'s, T>(
    selected: Option<&'s Selected<'_, CoreTemplateSpec>>,
    section: impl FnOnce(&'s CoreTemplateSpec) -> Option<&'s T>,
) -> Option<(&'s T, &'s Source)> {
    let selected = selected?;
    section(selected.spec).map(|content| (content, &selected.source))
}
