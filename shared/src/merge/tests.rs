//! Laws and examples of merging.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::api::v1alpha1::{BackupType, DurabilityPolicy, PostgresConfigRef, PvcRetention};

/// Generators of spec fragments, shared with the tests of the resolver.
pub(crate) mod generate {
    use super::*;

    fn text() -> BoxedStrategy<Option<String>> {
        prop::option::of(prop::sample::select(vec!["", "a", "b", "10Gi", "1Gi", "x y"]).prop_map(str::to_owned)).boxed()
    }

    fn keys() -> BoxedStrategy<BTreeMap<String, String>> {
        prop::collection::btree_map("[a-c]", "[a-z]{0,2}", 0..3).boxed()
    }

    pub fn cells() -> BoxedStrategy<Vec<String>> {
        prop::collection::btree_set("zone-[a-c]", 0..3).prop_map(|cells| cells.into_iter().collect()).boxed()
    }

    fn resources() -> BoxedStrategy<Option<ResourceRequirements>> {
        let map = || prop::option::of(prop::collection::btree_map("cpu|memory", "[1-9]m?".prop_map(Quantity), 0..2));
        prop::option::of((map(), map()).prop_map(|(requests, limits)| ResourceRequirements {
            requests,
            limits,
            claims: None,
        }))
        .boxed()
    }

    fn placement() -> BoxedStrategy<Option<PodPlacementSpec>> {
        prop::option::of(Just(PodPlacementSpec::default())).boxed()
    }

    pub fn policy() -> BoxedStrategy<Option<PvcDeletionPolicy>> {
        let one = || prop::option::of(prop::sample::select(vec![PvcRetention::Retain, PvcRetention::Delete]));
        prop::option::of(
            (one(), one()).prop_map(|(when_deleted, when_scaled)| PvcDeletionPolicy { when_deleted, when_scaled }),
        )
        .boxed()
    }

    pub fn stateless() -> BoxedStrategy<StatelessSpec> {
        (prop::option::of(0..5), resources(), prop::option::of(Just(Box::<Affinity>::default())), keys(), keys())
            .prop_map(|(replicas, resources, affinity, pod_annotations, pod_labels)| StatelessSpec {
                replicas,
                resources,
                affinity,
                pod_annotations,
                pod_labels,
            })
            .boxed()
    }

    pub fn gateway() -> BoxedStrategy<MultigatewaySpec> {
        let buffer = (prop::option::of(any::<bool>()), text(), text(), prop::option::of(0..9)).prop_map(
            |(enabled, window, max_failover_duration, size)| {
                let rest = BufferConfig::default();
                Box::new(BufferConfig { enabled, window, max_failover_duration, size, ..rest })
            },
        );
        (stateless(), prop::option::of(buffer))
            .prop_map(|(base, buffer)| MultigatewaySpec {
                replicas: base.replicas,
                resources: base.resources,
                affinity: base.affinity,
                pod_annotations: base.pod_annotations,
                pod_labels: base.pod_labels,
                buffer,
            })
            .boxed()
    }

    pub fn multiorch() -> BoxedStrategy<MultiorchSpec> {
        (stateless(), placement(), cells())
            .prop_map(|(base, placement, cells)| MultiorchSpec {
                replicas: base.replicas,
                resources: base.resources,
                affinity: base.affinity,
                pod_annotations: base.pod_annotations,
                pod_labels: base.pod_labels,
                placement,
                cells,
            })
            .boxed()
    }

    pub fn storage() -> BoxedStrategy<Option<StorageSpec>> {
        let modes = prop::collection::vec(Just("ReadWriteMany".to_owned()), 0..2);
        prop::option::of((text(), text(), text(), modes).prop_map(|(size, class, alias, access_modes)| StorageSpec {
            size,
            storage_class_name: if class.is_some() { None } else { alias },
            class,
            access_modes,
        }))
        .boxed()
    }

    pub fn etcd() -> BoxedStrategy<EtcdSpec> {
        (text(), prop::option::of(1..6), storage(), resources(), text(), policy())
            .prop_map(|(image, replicas, storage, resources, root_path, pvc_deletion_policy)| EtcdSpec {
                image,
                replicas,
                storage,
                resources,
                root_path,
                pvc_deletion_policy,
            })
            .boxed()
    }

    fn container() -> BoxedStrategy<Option<ContainerConfig>> {
        prop::option::of((resources(), prop::option::of(1..3_i64), prop::option::of(0..3_i64)).prop_map(
            |(resources, run_as_user, run_as_group)| ContainerConfig { resources, run_as_user, run_as_group },
        ))
        .boxed()
    }

    pub fn pool() -> BoxedStrategy<PoolSpec> {
        (cells(), prop::option::of(0..4), storage(), container(), container(), prop::option::of(1..3_i64), policy())
            .prop_map(|(cells, replicas_per_cell, storage, postgres, multipooler, fs_group, pvc_deletion_policy)| {
                PoolSpec {
                    cells,
                    replicas_per_cell,
                    storage,
                    postgres,
                    multipooler,
                    fs_group,
                    pvc_deletion_policy,
                    ..PoolSpec::default()
                }
            })
            .boxed()
    }

    pub fn shard() -> BoxedStrategy<ShardInlineSpec> {
        let pools = prop::collection::btree_map("[a-b]", pool(), 0..3);
        let settings = prop::collection::btree_map("work_mem|jit|port", "[a-z0-9]{0,3}", 0..2);
        (prop::option::of(multiorch()), text(), settings, pools, policy())
            .prop_map(|(multiorch, initdb_args, postgres_config, pools, pvc_deletion_policy)| ShardInlineSpec {
                multiorch,
                initdb_args,
                postgres_config,
                pools,
                pvc_deletion_policy,
                ..ShardInlineSpec::default()
            })
            .boxed()
    }

    pub fn backup() -> BoxedStrategy<Option<BackupConfig>> {
        let filesystem = (text(), storage()).prop_map(|(path, storage)| FilesystemBackupConfig {
            path,
            storage,
            ..FilesystemBackupConfig::default()
        });
        let s3 =
            ("[a-b]", text(), prop::option::of(any::<bool>())).prop_map(|(bucket, endpoint, use_env_credentials)| {
                S3BackupConfig {
                    bucket,
                    region: "r".to_owned(),
                    endpoint,
                    use_env_credentials,
                    ..S3BackupConfig::default()
                }
            });
        prop::option::of((any::<bool>(), prop::option::of(filesystem), prop::option::of(s3)).prop_map(
            |(s3_type, filesystem, s3)| BackupConfig {
                r#type: if s3_type { BackupType::S3 } else { BackupType::Filesystem },
                filesystem: filesystem.filter(|_| !s3_type),
                s3: s3.filter(|_| s3_type),
                ..BackupConfig::default()
            },
        ))
        .boxed()
    }
}

fn merged<T: Merge + Clone>(lower: &T, upper: &T) -> T {
    let mut result = lower.clone();
    result.merge(upper);
    result
}

/// Nothing over x is x, up to the spelling that merging normalises; merging is associative; x over x is x.
fn laws<T: Merge + Clone + Default + PartialEq + std::fmt::Debug>(a: &T, b: &T, c: &T) -> Result<(), TestCaseError> {
    let a = &merged(&T::default(), a);
    prop_assert_eq!(&merged(a, &T::default()), a);
    prop_assert_eq!(&merged(a, a), a);
    prop_assert_eq!(merged(&merged(a, b), c), merged(a, &merged(b, c)));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn gateways_obey_the_laws(a in generate::gateway(), b in generate::gateway(), c in generate::gateway()) {
        laws(&a, &b, &c)?;
    }

    #[test]
    fn orchestrators_obey_the_laws(a in generate::multiorch(), b in generate::multiorch(), c in generate::multiorch()) {
        laws(&a, &b, &c)?;
    }

    #[test]
    fn etcd_obeys_the_laws(a in generate::etcd(), b in generate::etcd(), c in generate::etcd()) {
        laws(&a, &b, &c)?;
    }

    #[test]
    fn shards_obey_the_laws(a in generate::shard(), b in generate::shard(), c in generate::shard()) {
        laws(&a, &b, &c)?;
    }

    #[test]
    fn overrides_and_templates_are_laid_over_as_inline_settings_are(lower in generate::shard(), upper in generate::shard()) {
        let upper = ShardInlineSpec {
            postgres_config_ref: Some(PostgresConfigRef::default()),
            durability_policy: Some(DurabilityPolicy::MultiCellAtLeast2),
            ..upper
        };
        let overrides = ShardOverrides {
            multiorch: upper.multiorch.clone(),
            initdb_args: upper.initdb_args.clone(),
            postgres_config_ref: upper.postgres_config_ref.clone(),
            postgres_config: upper.postgres_config.clone(),
            pools: upper.pools.clone(),
            durability_policy: upper.durability_policy,
        };
        let template = ShardTemplateSpec {
            multiorch: upper.multiorch.clone(),
            initdb_args: upper.initdb_args.clone(),
            postgres_config_ref: upper.postgres_config_ref.clone(),
            postgres_config: upper.postgres_config.clone(),
            pools: upper.pools.clone(),
            pvc_deletion_policy: upper.pvc_deletion_policy,
        };
        let mut result = lower.clone();
        result.merge(&overrides);
        prop_assert_eq!(result, merged(&lower, &ShardInlineSpec { pvc_deletion_policy: None, ..upper.clone() }));
        let mut result = lower.clone();
        result.merge(&template);
        prop_assert_eq!(result, merged(&lower, &ShardInlineSpec { durability_policy: None, ..upper }));
    }

    #[test]
    fn every_difference_is_reported(lower in generate::shard(), upper in generate::shard()) {
        let lower = merged(&ShardInlineSpec::default(), &lower);
        let mut paths = Vec::new();
        let mut report = |event: Event<'_>| if let Event::Provided(path) = event { paths.push(path.to_owned()) };
        let mut result = lower.clone();
        result.overlay(&upper, &mut Path::reporting("s", &mut report));
        if paths.is_empty() {
            // Only the presence of empty blocks may differ.
            prop_assert_eq!(&result.initdb_args, &lower.initdb_args);
            prop_assert_eq!(&result.postgres_config, &lower.postgres_config);
        }
        for key in upper.postgres_config.keys() {
            let path = format!("s.postgresConfig[{key}]");
            prop_assert!(paths.contains(&path));
        }
    }
}

#[rstest]
fn resources_are_replaced_as_a_whole() {
    let with = |requests: Option<&str>, limits: Option<&str>| StatelessSpec {
        resources: Some(ResourceRequirements {
            requests: requests.map(|cpu| BTreeMap::from([("cpu".to_owned(), Quantity(cpu.to_owned()))])),
            limits: limits.map(|cpu| BTreeMap::from([("cpu".to_owned(), Quantity(cpu.to_owned()))])),
            claims: None,
        }),
        ..StatelessSpec::default()
    };
    assert_eq!(merged(&with(Some("1"), None), &with(None, Some("2"))), with(None, Some("2")));
    assert_eq!(merged(&with(Some("1"), None), &with(None, None)), with(Some("1"), None), "an empty block is no block");
}

#[test]
fn an_empty_placement_clears_inherited_tolerations() {
    let tolerating = MultiorchSpec {
        placement: Some(PodPlacementSpec { tolerations: vec![k8s_openapi::api::core::v1::Toleration::default()] }),
        ..MultiorchSpec::default()
    };
    let cleared = MultiorchSpec { placement: Some(PodPlacementSpec::default()), ..MultiorchSpec::default() };
    assert_eq!(merged(&tolerating, &cleared), cleared);
}

#[test]
fn the_other_spelling_of_a_storage_class_becomes_the_canonical_one() {
    let alias = StorageSpec { storage_class_name: Some("nfs".to_owned()), ..StorageSpec::default() };
    let canonical = StorageSpec { class: Some("nfs".to_owned()), ..StorageSpec::default() };
    assert_eq!(merged(&StorageSpec::default(), &alias), canonical);
    assert_eq!(merged(&alias, &StorageSpec::default()), canonical);
}

#[test]
fn a_backup_of_another_type_discards_everything() {
    let mut lower = BackupConfig {
        r#type: BackupType::S3,
        encryption: Some(crate::api::v1alpha1::EncryptionConfig { secret_name: "keys".to_owned() }),
        ..BackupConfig::default()
    };
    let mut events = Vec::new();
    let mut report = |event: Event<'_>| events.push(format!("{event:?}"));
    lower.overlay(&BackupConfig::default(), &mut Path::reporting("backup", &mut report));
    assert_eq!(lower, BackupConfig::default());
    assert_eq!(events, [r#"Discarded("backup")"#, r#"Provided("backup.type")"#]);
}

#[test]
fn credentials_from_the_environment_are_not_inherited() {
    let s3 = |use_env_credentials| S3BackupConfig { use_env_credentials, ..S3BackupConfig::default() };
    assert_eq!(merged(&s3(Some(true)), &s3(None)).use_env_credentials, None);
    assert_eq!(merged(&s3(None), &s3(Some(true))).use_env_credentials, Some(true));
}
