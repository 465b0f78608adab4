//! Clusters made at random: valid ones by construction, and what becomes of them when something in them is spoilt.

use serde_json::{Map, Value, json};

use super::random::Random;

/// The namespace of generated clusters.
pub const NAMESPACE: &str = "generated";
/// The templates that generated clusters refer to.
pub const CORE_TEMPLATES: [&str; 2] = ["default", "core-a"];
/// The templates that generated cells refer to.
pub const CELL_TEMPLATES: [&str; 2] = ["default", "cell-a"];
/// The templates that generated shards refer to.
pub const SHARD_TEMPLATES: [&str; 2] = ["default", "shard-a"];
/// The storage class that generated clusters refer to, which is also the default class.
pub const STORAGE_CLASS: &str = "standard";

/// The objects that have to exist beside the generated clusters.
pub fn surroundings() -> Vec<Value> {
    let mut objects = Vec::new();
    let mut template = |kind: &str, name: &str, spec: Value| {
        objects.push(json!({
            "apiVersion": "multigres.com/v1alpha1", "kind": kind,
            "metadata": {"name": name, "namespace": NAMESPACE, "uid": format!("{kind}-{name}")},
            "spec": spec,
        }));
    };
    template("CoreTemplate", "default", json!({"multiadmin": {"replicas": 2}}));
    template(
        "CoreTemplate",
        "core-a",
        json!({
            "globalTopoServer": {"etcd": {"replicas": 3, "storage": {"size": "2Gi", "class": STORAGE_CLASS}}},
            "multiadmin": {"replicas": 1, "resources": {"requests": {"cpu": "50m"}, "limits": {"cpu": "1"}}},
            "multiadminWeb": {"replicas": 1},
        }),
    );
    template("CellTemplate", "default", json!({"multigateway": {"replicas": 2}}));
    template(
        "CellTemplate",
        "cell-a",
        json!({
            "multigateway": {"replicas": 3, "buffer": {"enabled": true, "window": "5s", "maxFailoverDuration": "30s"}},
        }),
    );
    template("ShardTemplate", "default", json!({"multiorch": {"replicas": 1}}));
    template(
        "ShardTemplate",
        "shard-a",
        json!({
            "multiorch": {"replicas": 1},
            "postgresConfig": {"work_mem": "16MB"},
            "pools": {"default": {"type": "readWrite", "replicasPerCell": 2, "storage": {"size": "5Gi"}}},
        }),
    );
    objects
}

/// A cluster that nothing speaks against, with neither alias unless asked for.
pub fn valid(random: &mut Random, aliases: bool) -> Value {
    let mut maker = Maker { random, aliases };
    maker.cluster()
}

/// The cluster with one to three places spoilt.
pub fn spoil(random: &mut Random, cluster: &mut Value) {
    for _ in 0..random.between(1, 3) {
        let mut places = Vec::new();
        pointers(&cluster["spec"], "/spec", &mut places);
        places.push("/metadata/name".to_owned());
        let place = random.pick(&places).clone();
        spoil_at(random, cluster, &place, &places);
    }
}

fn pointers(value: &Value, at: &str, places: &mut Vec<String>) {
    places.push(at.to_owned());
    match value {
        Value::Object(fields) => {
            for (key, field) in fields {
                pointers(field, &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), places);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                pointers(item, &format!("{at}/{index}"), places);
            }
        }
        _ => {}
    }
}

fn spoil_at(random: &mut Random, cluster: &mut Value, place: &str, places: &[String]) {
    let elsewhere = cluster.pointer(random.pick::<String>(places)).cloned().unwrap_or_default();
    let Some(target) = cluster.pointer_mut(place) else { return };
    match random.below(9) {
        // Another type, an extreme, or a string that breaks patterns.
        0..=2 => *target = odd(random),
        // Something from elsewhere in the same spec.
        3 => *target = elsewhere,
        4 => match target {
            Value::Array(items) if !items.is_empty() => {
                let item = random.pick(items).clone();
                items.push(item);
            }
            Value::Object(fields) => {
                fields
                    .insert(random.pick(&["unknown", "", "spec", "replicas", "ключ", "a.b/c"]).to_string(), elsewhere);
            }
            _ => *target = Value::Null,
        },
        5 => match target {
            Value::Array(items) => drop(items.pop()),
            Value::Object(fields) => {
                let keys: Vec<String> = fields.keys().cloned().collect();
                if !keys.is_empty() {
                    let gone = fields.remove(random.pick(&keys));
                    if random.chance(50) {
                        fields.insert(format!("{}x", random.pick(&keys)), gone.unwrap_or_default());
                    }
                }
            }
            _ => *target = Value::Null,
        },
        6 => {
            if let Value::String(text) = target {
                *text = match random.below(4) {
                    0 => text.to_uppercase(),
                    1 => format!("-{text}"),
                    2 => text.repeat(40),
                    _ => format!("{text}{}", random.pick(&["é", "\u{0}", "😀", "\u{202e}", " ", "\n", ".", "/"])),
                };
            }
        }
        7 => {
            if let Some(number) = target.as_i64() {
                *target = json!(*random.pick(&[0, -1, number + 1, number * 1000, i64::MAX, i64::MIN, 2_147_483_648]));
            }
        }
        // A reference, a choice or a list member that does not exist.
        _ => *target = if target.is_array() { json!(["nowhere"]) } else { json!("nowhere") },
    }
}

/// A value that hardly any field expects.
pub fn odd(random: &mut Random) -> Value {
    match random.below(14) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(-1),
        3 => json!(1.5e300),
        4 => json!(u64::MAX),
        5 => json!(""),
        6 => json!("10Foo"),
        7 => json!("ünïcödé-😀-\u{202e}\u{0}"),
        8 => json!([]),
        9 => json!({}),
        10 => json!([[[[null]]]]),
        11 => json!({"name": {"name": {"name": []}}}),
        12 => json!("x".repeat(random.between(1, 5000))),
        _ => json!(["", "", null, 1, {"a": "b"}]),
    }
}

struct Maker<'r> {
    random: &'r mut Random,
    aliases: bool,
}

impl Maker<'_> {
    /// An object of those fields that come out as present.
    fn some(
        &mut self,
        fields: &mut Map<String, Value>,
        percent: usize,
        key: &str,
        make: impl FnOnce(&mut Self) -> Value,
    ) {
        if self.random.chance(percent) {
            let value = make(self);
            fields.insert(key.to_owned(), value);
        }
    }

    fn cluster(&mut self) -> Value {
        let name = self.name("c", 20);
        let cells: Vec<String> = match self.random.below(20) {
            0 => Vec::new(),
            size => (0..=size % 6).map(|index| format!("zone-{index}")).collect(),
        };
        let mut spec = Map::new();
        if !cells.is_empty() {
            let cells = cells.iter().map(|cell| self.cell(cell)).collect();
            spec.insert("cells".to_owned(), Value::Array(cells));
        }
        self.some(&mut spec, 70, "databases", |maker| json!([maker.database(&cells)]));
        self.some(&mut spec, 25, "templateDefaults", |maker| {
            let mut defaults = Map::new();
            maker.some(&mut defaults, 50, "coreTemplate", |maker| json!(maker.random.pick(&CORE_TEMPLATES)));
            maker.some(&mut defaults, 50, "cellTemplate", |maker| json!(maker.random.pick(&CELL_TEMPLATES)));
            maker.some(&mut defaults, 50, "shardTemplate", |maker| json!(maker.random.pick(&SHARD_TEMPLATES)));
            Value::Object(defaults)
        });
        self.some(&mut spec, 40, "globalTopoServer", Self::global_topology);
        self.some(&mut spec, 30, "multiadmin", Self::admin);
        self.some(&mut spec, 30, "multiadminWeb", Self::admin);
        self.some(&mut spec, 30, "durabilityPolicy", Self::policy);
        self.some(&mut spec, 40, "backup", Self::backup);
        self.some(&mut spec, 20, "pvcDeletionPolicy", Self::retention);
        self.some(&mut spec, 20, "externalGateway", Self::exposed);
        self.some(&mut spec, 20, "externalAdminWeb", Self::exposed);
        self.some(
            &mut spec,
            20,
            "logLevels",
            |maker| json!({"multipooler": maker.random.pick(&["debug", "info", "warn", "error"])}),
        );
        self.some(&mut spec, 20, "images", |maker| {
            json!({
                "imagePullPolicy": maker.random.pick(&["Always", "Never", "IfNotPresent"]),
                "multigateway": "registry.example.com/multigres/gateway:1",
            })
        });
        self.some(
            &mut spec,
            20,
            "imageUpdatePolicy",
            |maker| json!({"strategy": maker.random.pick(&["immediate", "lazy"])}),
        );
        self.some(&mut spec, 20, "topologyPruning", |maker| json!({"enabled": maker.random.chance(50)}));
        self.some(&mut spec, 20, "postgresPasswordSecretRef", |_| json!({"name": "password", "key": "password"}));
        self.some(&mut spec, 20, "observability", |maker| {
            json!({
                "otlpEndpoint": "http://collector:4318",
                "otlpProtocol": maker.random.pick(&["http/protobuf", "grpc"]),
            })
        });
        let mut metadata = json!({"name": name, "namespace": NAMESPACE});
        if self.random.chance(30) {
            metadata["annotations"] = json!({"example.com/owner": "größe 😀", "a": "b"});
        }
        if self.random.chance(30) {
            metadata["labels"] = json!({"app.kubernetes.io/part-of": "shop"});
        }
        json!({"apiVersion": "multigres.com/v1alpha1", "kind": "MultigresCluster", "metadata": metadata, "spec": spec})
    }

    fn name(&mut self, prefix: &str, longest: usize) -> String {
        let mut name = prefix.to_owned();
        for _ in 0..self.random.below(longest) {
            name.push(char::from(*self.random.pick(b"abcxyz0189")));
        }
        name
    }

    fn cell(&mut self, name: &str) -> Value {
        let mut cell = Map::from_iter([("name".to_owned(), json!(name))]);
        let place = self.random.below(4);
        if place < 3 {
            cell.insert(["zone", "zoneId", "region"][place].to_owned(), json!(format!("place-{name}")));
        }
        match self.random.below(4) {
            0 => {
                let mut spec = Map::new();
                self.some(&mut spec, 70, "multigateway", Self::gateway);
                self.some(&mut spec, 30, "multigatewayPlacement", Self::placement);
                self.some(&mut spec, 30, "localTopoServer", |maker| json!({"etcd": maker.etcd()}));
                cell.insert("spec".to_owned(), Value::Object(spec));
            }
            1 => {
                cell.insert("cellTemplate".to_owned(), json!(self.random.pick(&CELL_TEMPLATES)));
                self.some(&mut cell, 40, "overrides", |maker| json!({"multigateway": maker.gateway()}));
            }
            2 => {
                cell.insert("overrides".to_owned(), json!({"multigateway": self.gateway()}));
            }
            _ => {}
        }
        Value::Object(cell)
    }

    fn gateway(&mut self) -> Value {
        let mut gateway = self.stateless_fields();
        self.some(&mut gateway, 30, "buffer", |maker| {
            json!({
                "enabled": maker.random.chance(70),
                "window": maker.random.pick(&["1s", "9s", "250ms"]),
                "maxFailoverDuration": maker.random.pick(&["10s", "1m", "1m30s"]),
                "size": maker.random.between(1, 1000),
            })
        });
        Value::Object(gateway)
    }

    fn stateless_fields(&mut self) -> Map<String, Value> {
        let mut fields = Map::new();
        self.some(&mut fields, 60, "replicas", |maker| json!(maker.random.between(0, 5)));
        self.some(&mut fields, 40, "resources", Self::resources);
        self.some(&mut fields, 20, "podAnnotations", |_| json!({"example.com/note": "é"}));
        self.some(&mut fields, 20, "podLabels", |_| json!({"team": "storage"}));
        fields
    }

    fn resources(&mut self) -> Value {
        let (cpu, memory) = (self.random.between(1, 2000), self.random.between(16, 4096));
        let requests = json!({"cpu": format!("{cpu}m"), "memory": format!("{memory}Mi")});
        match self.random.below(3) {
            0 => json!({"requests": requests}),
            1 => {
                json!({"requests": requests, "limits": {"cpu": format!("{}m", cpu * 2), "memory": format!("{memory}Mi")}})
            }
            _ => json!({"limits": {"memory": format!("{memory}M")}}),
        }
    }

    fn placement(&mut self) -> Value {
        json!({"tolerations": [{"key": "dedicated", "operator": "Equal", "value": self.name("v", 5), "effect": "NoSchedule"}]})
    }

    fn etcd(&mut self) -> Value {
        let mut etcd = Map::new();
        self.some(&mut etcd, 60, "replicas", |maker| json!(maker.random.pick(&[1, 3, 5])));
        self.some(&mut etcd, 50, "storage", Self::storage);
        self.some(&mut etcd, 40, "resources", Self::resources);
        self.some(&mut etcd, 20, "pvcDeletionPolicy", Self::retention);
        Value::Object(etcd)
    }

    fn storage(&mut self) -> Value {
        let mut storage = Map::from_iter([("size".to_owned(), json!(format!("{}Gi", self.random.between(1, 500))))]);
        let spelling = if self.aliases { "storageClassName" } else { "class" };
        self.some(&mut storage, 40, spelling, |_| json!(STORAGE_CLASS));
        Value::Object(storage)
    }

    fn retention(&mut self) -> Value {
        let mut policy = Map::new();
        self.some(&mut policy, 60, "whenDeleted", |maker| json!(maker.random.pick(&["Retain", "Delete"])));
        self.some(&mut policy, 60, "whenScaled", |maker| json!(maker.random.pick(&["Retain", "Delete"])));
        Value::Object(policy)
    }

    fn global_topology(&mut self) -> Value {
        match self.random.below(4) {
            0 => json!({"etcd": self.etcd()}),
            1 => json!({"external": {"endpoints": ["https://etcd-0.example.com:2379", "http://10.0.0.7:2379"]}}),
            2 => json!({"templateRef": self.random.pick(&CORE_TEMPLATES)}),
            _ => json!({"placement": self.placement()}),
        }
    }

    fn admin(&mut self) -> Value {
        match self.random.below(3) {
            0 => json!({"spec": self.stateless_fields()}),
            1 => json!({"templateRef": self.random.pick(&CORE_TEMPLATES)}),
            _ => json!({}),
        }
    }

    fn policy(&mut self) -> Value {
        json!(self.random.pick(&["AT_LEAST_2", "MULTI_CELL_AT_LEAST_2"]))
    }

    fn backup(&mut self) -> Value {
        match self.random.below(3) {
            0 => {
                json!({"type": "s3", "s3": {"bucket": "backups", "region": "eu-central-1", "serviceAccountName": "backup"}})
            }
            1 => json!({"type": "s3", "s3": {"bucket": "backups", "region": "eu-central-1", "useEnvCredentials": true},
                "encryption": {"secretName": "passphrase"}}),
            _ => {
                let mut filesystem = Map::new();
                self.some(&mut filesystem, 60, "scope", |maker| json!(maker.random.pick(&["Cell", "Shard"])));
                self.some(
                    &mut filesystem,
                    60,
                    "storage",
                    |_| json!({"size": "20Gi", "accessModes": ["ReadWriteMany"]}),
                );
                json!({"type": "filesystem", "filesystem": filesystem})
            }
        }
    }

    fn exposed(&mut self) -> Value {
        let mut service = Map::from_iter([("enabled".to_owned(), json!(self.random.chance(70)))]);
        self.some(&mut service, 60, "externalIPs", |_| json!(["198.51.100.10", "2001:db8::1"]));
        self.some(&mut service, 30, "annotations", |_| json!({"example.com/lb": "yes"}));
        Value::Object(service)
    }

    fn database(&mut self, cells: &[String]) -> Value {
        let mut database = Map::from_iter([("name".to_owned(), json!("postgres"))]);
        self.some(&mut database, 50, "default", |_| json!(true));
        let spelling = if self.aliases { "tableGroups" } else { "tablegroups" };
        self.some(&mut database, 80, spelling, |maker| {
            let groups = (0..maker.random.between(1, 4)).map(|index| maker.table_group(index, cells)).collect();
            Value::Array(groups)
        });
        self.some(&mut database, 20, "durabilityPolicy", Self::policy);
        Value::Object(database)
    }

    fn table_group(&mut self, index: usize, cells: &[String]) -> Value {
        let name = if index == 0 { "default".to_owned() } else { format!("group-{index}") };
        let mut group = Map::from_iter([("name".to_owned(), json!(name))]);
        self.some(&mut group, 50, "default", |_| json!(index == 0));
        self.some(&mut group, 80, "shards", |maker| json!([maker.shard(cells)]));
        self.some(&mut group, 20, "pvcDeletionPolicy", Self::retention);
        Value::Object(group)
    }

    fn shard(&mut self, cells: &[String]) -> Value {
        let mut shard = Map::from_iter([("name".to_owned(), json!("0-inf"))]);
        match self.random.below(4) {
            0 => {
                let spec = self.shard_spec(cells);
                shard.insert("spec".to_owned(), spec);
            }
            1 => {
                shard.insert("shardTemplate".to_owned(), json!(self.random.pick(&SHARD_TEMPLATES)));
                self.some(&mut shard, 40, "overrides", |maker| maker.shard_spec(cells));
            }
            2 => {
                let overrides = self.shard_spec(cells);
                shard.insert("overrides".to_owned(), overrides);
            }
            _ => {}
        }
        Value::Object(shard)
    }

    fn shard_spec(&mut self, cells: &[String]) -> Value {
        let mut spec = Map::new();
        self.some(&mut spec, 40, "multiorch", |maker| {
            let mut orch = maker.stateless_fields();
            if !cells.is_empty() {
                maker.some(&mut orch, 40, "cells", |maker| maker.some_cells(cells));
            }
            Value::Object(orch)
        });
        self.some(&mut spec, 40, "postgresConfig", |maker| {
            let mut config = Map::new();
            maker.some(&mut config, 60, "work_mem", |_| json!("64MB"));
            maker.some(&mut config, 60, "max_connections", |maker| json!(maker.random.between(100, 900).to_string()));
            maker.some(&mut config, 60, "pg_stat_statements.track", |_| json!("all"));
            Value::Object(config)
        });
        self.some(&mut spec, 80, "pools", |maker| {
            let mut pools = Map::new();
            for index in 0..maker.random.between(1, 3) {
                let name = if index == 0 { "default".to_owned() } else { format!("pool-{index}") };
                let pool = maker.pool(cells);
                pools.insert(name, pool);
            }
            Value::Object(pools)
        });
        self.some(&mut spec, 30, "durabilityPolicy", Self::policy);
        Value::Object(spec)
    }

    fn some_cells(&mut self, cells: &[String]) -> Value {
        let first = self.random.below(cells.len());
        json!(cells[first..=self.random.between(first, cells.len() - 1)])
    }

    fn pool(&mut self, cells: &[String]) -> Value {
        let mut pool = Map::new();
        self.some(&mut pool, 60, "type", |_| json!("readWrite"));
        self.some(&mut pool, 70, "replicasPerCell", |maker| json!(maker.random.between(1, 4)));
        self.some(&mut pool, 70, "storage", Self::storage);
        if !cells.is_empty() {
            self.some(&mut pool, 30, "cells", |maker| maker.some_cells(cells));
        }
        if self.random.chance(30) {
            let user = self.random.between(1000, 2000);
            pool.insert("postgres".to_owned(), json!({"runAsUser": user, "resources": self.resources()}));
            self.some(&mut pool, 50, "multipooler", |maker| json!({"runAsUser": user, "resources": maker.resources()}));
            pool.insert("fsGroup".to_owned(), json!(user));
        }
        self.some(&mut pool, 20, "tolerations", |_| json!([{"operator": "Exists"}]));
        Value::Object(pool)
    }
}
