//! Vectors of the data plane, round trips, and the fields that must survive a write.

use proptest::prelude::*;
use rstest::rstest;

use super::*;

fn cell() -> CellRecord {
    CellRecord {
        name: "zone-a".to_owned(),
        server_addresses: vec!["demo-global-topo.prod.svc:2379".to_owned()],
        root: "/multigres/global".to_owned(),
    }
}

fn filesystem() -> DatabaseRecord {
    DatabaseRecord {
        name: "postgres".to_owned(),
        backup_location: Some(BackupLocation::Filesystem { path: "/backups".to_owned() }),
        require_initial_repo_encryption: false,
        cells: vec!["zone-a".to_owned(), "zone-b".to_owned()],
        durability_policy: DurabilityPolicy::named("AT_LEAST_2"),
    }
}

fn s3() -> DatabaseRecord {
    DatabaseRecord {
        name: "postgres".to_owned(),
        backup_location: Some(BackupLocation::S3 {
            bucket: "b".to_owned(),
            region: "us-east-1".to_owned(),
            endpoint: String::new(),
            key_prefix: "demo/".to_owned(),
            use_env_credentials: true,
        }),
        require_initial_repo_encryption: true,
        cells: vec!["zone-a".to_owned()],
        durability_policy: DurabilityPolicy::named("MULTI_CELL_AT_LEAST_2"),
    }
}

fn pooler() -> PoolerRecord {
    PoolerRecord {
        id: PoolerId::new("zone-a", "p-0badcafe"),
        shard: ShardKey::new("postgres", "default", "0-inf"),
        hostname: "demo-0.demo-headless.prod.svc.cluster.local".to_owned(),
        ports: [("grpc".to_owned(), 15270)].into(),
        role: Role::Primary,
        rule: Some(RuleNumber { coordinator_term: 3, leader_subterm: 7 }),
        lifecycle: LifecycleMark { state: Lifecycle::Active, reason: String::new(), updated: None },
        serving: Serving::Serving,
        tls: None,
    }
}

#[rstest]
#[case(
    encode_cell(&cell()),
    "0a067a6f6e652d61121e64656d6f2d676c6f62616c2d746f706f2e70726f642e7376633a323337391a112f6d756c7469677265732f676c6f62616c"
)]
#[case(
    encode_database(&filesystem()),
    "0a08706f737467726573120c0a0a0a082f6261636b7570731a067a6f6e652d611a067a6f6e652d6222100a0a41545f4c454153545f3218032002"
)]
#[case(
    encode_database(&s3()),
    "0a08706f737467726573121b12170a0162120975732d656173742d31220564656d6f2f280118011a067a6f6e652d61221b0a154d554c54495f43454c4c5f41545f4c454153545f3218042002"
)]
#[case(
    wire_id(ComponentType::Multipooler, &PoolerId::new("zone-a", "p-0badcafe")).encode_to_vec(),
    "080112067a6f6e652d611a0a702d3062616463616665"
)]
fn values_equal_those_of_the_data_plane(#[case] value: Vec<u8>, #[case] vector: &str) {
    assert_eq!(hex::encode(value), vector);
}

#[test]
fn parts_of_a_pooler_record_equal_those_of_the_data_plane() {
    let shutdown = LifecycleMark {
        state: Lifecycle::Shutdown,
        reason: "operator: no backing pod for pooler".to_owned(),
        updated: Some("2026-01-01T00:00:00Z".parse().unwrap()),
    };
    let value = hex::encode(encode_pooler(&PoolerRecord { lifecycle: shutdown, ..pooler() }));
    for part in [
        "622f080412236f70657261746f723a206e6f206261636b696e6720706f6420666f7220706f6f6c65721a060880f2d6ca06",
        "6a080801120408031007",
        "4a090a046772706310a677",
    ] {
        assert!(value.contains(part), "{part} in {value}");
    }
}

#[test]
fn records_survive_a_round_trip() {
    assert_eq!(decode_cell("k", "zone-a", &encode_cell(&cell())).unwrap(), cell());
    for database in [filesystem(), s3()] {
        assert_eq!(decode_database("k", "postgres", &encode_database(&database)).unwrap(), database);
    }
    let segment = "multipooler-zone-a-p-0badcafe";
    assert_eq!(decode_pooler("k", segment, &encode_pooler(&pooler())).unwrap(), pooler());
    for component in [Component::Gateway, Component::Orch] {
        let record = Registration {
            component,
            cell: "zone-a".to_owned(),
            name: "x1".to_owned(),
            hostname: "10.0.0.7".to_owned(),
            ports: [("http".to_owned(), 15000)].into(),
        };
        let segment = key::registration_component(component, "zone-a", "x1");
        assert_eq!(decode_registration(component, "k", &segment, &encode_registration(&record)).unwrap(), record);
    }
}

#[test]
fn an_equal_record_is_not_rewritten() {
    assert_eq!(update_cell(&encode_cell(&cell()), &cell()), None);
    assert_eq!(update_database(&encode_database(&s3()), &s3()), None);
    let value = encode_pooler(&pooler());
    assert_eq!(update_lifecycle("k", &value, &pooler().lifecycle).unwrap(), None);
}

/// A later version's field with number 90, as bytes.
const NEWER: [u8; 5] = [0xd2, 0x05, 0x02, b'h', b'i'];

#[test]
fn fields_of_a_newer_data_plane_survive_a_write() {
    let stored = [encode_cell(&cell()), NEWER.to_vec()].concat();
    let moved = CellRecord { root: "/elsewhere".to_owned(), ..cell() };
    assert_eq!(update_cell(&stored, &cell()), None);
    let written = update_cell(&stored, &moved).unwrap();
    assert!(written.ends_with(&NEWER));
    assert_eq!(decode_cell("k", "zone-a", &written).unwrap(), moved);

    let stored = [encode_pooler(&pooler()), NEWER.to_vec()].concat();
    let mark = LifecycleMark { state: Lifecycle::Shutdown, reason: "gone".to_owned(), updated: None };
    let written = update_lifecycle("k", &stored, &mark).unwrap().unwrap();
    assert!(written.ends_with(&NEWER));
    let expected = PoolerRecord { lifecycle: mark, ..pooler() };
    assert_eq!(decode_pooler("k", "multipooler-zone-a-p-0badcafe", &written).unwrap(), expected);
}

#[test]
fn what_belongs_to_the_tools_survives_a_write() {
    let mut stored = meta::Database::decode(encode_database(&s3()).as_slice()).unwrap();
    stored.backup_location.as_mut().unwrap().authoritative_generation = 5;
    let policy = stored.bootstrap_durability_policy.as_mut().unwrap();
    policy.policy_version = 2;
    policy.description = "by hand".to_owned();
    let stored = stored.encode_to_vec();
    assert_eq!(update_database(&stored, &s3()), None);

    let wanted = DatabaseRecord {
        backup_location: Some(BackupLocation::Filesystem { path: "/b".to_owned() }),
        require_initial_repo_encryption: false,
        cells: vec![],
        ..s3()
    };
    let written = meta::Database::decode(update_database(&stored, &wanted).unwrap().as_slice()).unwrap();
    let backup = written.backup_location.as_ref().unwrap();
    assert_eq!(backup.authoritative_generation, 5);
    assert!(!backup.require_initial_repo_encryption);
    assert_eq!(backup.location, Some(Location::Filesystem(meta::FilesystemBackup { path: "/b".to_owned() })));
    let policy = written.bootstrap_durability_policy.as_ref().unwrap();
    assert_eq!((policy.policy_version, policy.description.as_str()), (2, "by hand"));
    assert!(written.cells.is_empty());
}

#[test]
fn what_nobody_can_read_is_replaced() {
    assert_eq!(update_cell(b"\xff\xff", &cell()), Some(encode_cell(&cell())));
    assert_eq!(update_lifecycle("k", b"\xff", &LifecycleMark::default()).unwrap_err().reason(), "Malformed");
}

#[test]
fn a_record_under_the_key_of_another_is_malformed() {
    assert_eq!(decode_cell("k", "zone-b", &encode_cell(&cell())).unwrap_err().reason(), "Malformed");
    let error = decode_pooler("k", "multipooler-zone-a-p-ffffffff", &encode_pooler(&pooler())).unwrap_err();
    assert_eq!(error.to_string(), "k is malformed: it says that it is \"multipooler-zone-a-p-0badcafe\"");
    assert_eq!(decode_pooler("k", "x", b"").unwrap_err().reason(), "Malformed");
}

#[test]
fn ports_that_nobody_can_dial_are_left_out() {
    let value = meta::Multiorch {
        id: Some(wire_id(ComponentType::Multiorch, &PoolerId::new("z", "o"))),
        hostname: "h".to_owned(),
        port_map: [("grpc".to_owned(), 70_000), ("http".to_owned(), 80)].into(),
    };
    let record = decode_registration(Component::Orch, "k", "multiorch-z-o", &value.encode_to_vec()).unwrap();
    assert_eq!(record.ports, BTreeMap::from([("http".to_owned(), 80)]));
}

proptest! {
    #[test]
    fn any_database_can_become_any_other(
        cells in proptest::collection::vec("[a-z]{1,8}", 0..4), encryption: bool, path in "[/a-z]{0,12}", s3_before: bool,
    ) {
        let wanted = DatabaseRecord {
            name: "postgres".to_owned(),
            backup_location: Some(BackupLocation::Filesystem { path }),
            require_initial_repo_encryption: encryption,
            cells,
            durability_policy: DurabilityPolicy::named("AT_LEAST_2"),
        };
        let before = encode_database(&if s3_before { s3() } else { filesystem() });
        let after = update_database(&before, &wanted).unwrap_or(before);
        prop_assert_eq!(decode_database("k", "postgres", &after).unwrap(), wanted.clone());
        prop_assert_eq!(update_database(&after, &wanted), None);
    }

    #[test]
    fn arbitrary_values_are_refused_and_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = decode_pooler("k", "multipooler-a-b", &bytes);
        let _ = decode_database("k", "postgres", &bytes);
        let _ = update_database(&bytes, &s3());
        let _ = update_lifecycle("k", &bytes, &LifecycleMark::default());
    }
}
