//! Issue, renewal, overlap, and what is left alone.

use kube::{Resource as _, ResourceExt};
use serde_json::json;

use super::*;

const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);
const CA: &str = "ca.demo.prod.multigres.internal";

fn days(days: i64) -> Timestamp {
    NOW + SignedDuration::from_hours(24 * days)
}

fn owner(uid: &str) -> Owner {
    let mut cluster = MultigresCluster::new("demo", MultigresClusterSpec::default());
    cluster.meta_mut().namespace = Some("prod".to_owned());
    cluster.meta_mut().uid = Some(uid.to_owned());
    Owner::of(&cluster).unwrap()
}

/// A namespace with Secrets in it.
struct World {
    owner: Owner,
    wanted: Wanted,
    held: BTreeMap<String, Held>,
}

impl World {
    fn of(spec: &serde_json::Value) -> Self {
        let owner = owner("u");
        let spec: MultigresClusterSpec = serde_json::from_value(spec.clone()).unwrap();
        Self { wanted: Wanted::of(&spec, &owner), owner, held: BTreeMap::new() }
    }

    fn internal() -> Self {
        Self::of(&json!({ "internalTLS": { "enabled": true } }))
    }

    fn public() -> Self {
        Self::of(&json!({ "certCommonName": "db.example.com" }))
    }

    fn due(&self, now: Timestamp) -> Certificates {
        due(&self.owner, &self.wanted, &self.held, now)
    }

    /// Carries out what is due until nothing is; returns how many passes wrote something.
    fn settle(&mut self, now: Timestamp) -> usize {
        for round in 0..10 {
            let due = self.due(now);
            if due.create.is_empty() && due.renew.is_empty() {
                return round;
            }
            for secret in due.create.iter().chain(&due.renew) {
                self.held.insert(secret.name_any(), Held::labelled(secret, &self.owner));
            }
        }
        panic!("certificates do not settle");
    }

    fn content(&self, name: &str) -> &Content {
        self.held[name].content().unwrap()
    }

    fn leaf(&self, name: &str) -> Certificate {
        Certificate::first(self.content(name).get(CERTIFICATE).unwrap()).unwrap()
    }

    fn authorities(&self) -> Vec<Certificate> {
        Certificate::all(self.content(CA).get(AUTHORITY).unwrap()).unwrap()
    }

    fn put(&mut self, name: &str, content: Content) {
        self.held.insert(name.to_owned(), Held::Other(content));
    }
}

fn id(component: &str) -> String {
    format!("{component}.demo.prod.multigres.internal")
}

/// A leaf of another authority, made out to these names.
fn brought(names: &[&str], until: Timestamp) -> Content {
    let valid_for = until.duration_since(NOW);
    let authority = Authority::generate("theirs", NOW, SignedDuration::from_hours(24 * 3650)).unwrap();
    let dns_names = names.iter().map(|name| (*name).to_owned()).collect();
    let leaf = authority.issue(&Request { common_name: "theirs".into(), dns_names, valid_for }, NOW).unwrap();
    let texts =
        [(CERTIFICATE, leaf.certificate), (PRIVATE_KEY, leaf.key), (AUTHORITY, authority.pair().certificate.clone())];
    let data = texts.map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes()))).into();
    Content::of(&Secret { data: Some(data), ..Secret::default() })
}

#[test]
fn a_plain_cluster_needs_no_certificates() {
    let world = World::of(&json!({ "internalTLS": { "enabled": false }, "certCommonName": "" }));
    assert!(world.wanted.secrets().is_empty());
    assert_eq!(world.due(NOW), Certificates::default());
}

#[test]
fn the_authority_comes_first_and_then_all_leaves_at_once() {
    let mut world = World::internal();
    let first = world.due(NOW);
    assert_eq!(first.create.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), [CA]);
    assert!(first.problems.is_empty(), "what is about to be made is no problem");
    assert_eq!(world.settle(NOW), 2);
    for component in [MULTIADMIN, MULTIGATEWAY, MULTIORCH, MULTIPOOLER, OPERATOR] {
        let leaf = world.leaf(&id(component));
        assert_eq!(leaf.common_name(), id(component));
        assert_eq!(leaf.dns_names().first(), Some(&id(component)));
        assert_eq!(leaf.dns_names().contains(&id(MULTIPOOLER)), matches!(component, MULTIGATEWAY | MULTIPOOLER));
        assert!(leaf.signed_by(&world.authorities()[0]));
        assert_eq!(world.content(&id(component)).get("ca.key"), None, "nobody but the operator gets the key");
    }
    assert_eq!(world.due(NOW).admin.digest, Some(world.content(&id(MULTIADMIN)).digest()));
}

#[test]
fn secrets_carry_the_labels_of_the_cluster_and_go_with_it() {
    let mut world = World::of(&json!({ "internalTLS": { "enabled": true }, "certCommonName": "db.example.com" }));
    let mut all = world.due(NOW).create;
    world.settle(NOW);
    world.held.retain(|name, _| name == CA);
    all.extend(world.due(NOW).create);
    let shown: Vec<_> = all
        .iter()
        .map(|secret| {
            assert!(world.owner.controls(secret));
            let keys: Vec<&String> = secret.data.as_ref().unwrap().keys().collect();
            json!({
                "name": secret.name_any(), "type": secret.type_, "labels": secret.labels(), "keys": keys,
            })
        })
        .collect();
    insta::assert_yaml_snapshot!(shown);
}

#[test]
fn leaves_are_renewed_a_month_before_they_end() {
    let mut world = World::internal();
    world.settle(NOW);
    assert_eq!(world.settle(days(334)), 0);
    let before = world.due(days(334)).admin.digest;
    assert_eq!(world.settle(days(336)), 1);
    assert_ne!(world.due(days(336)).admin.digest, before, "pods have to be replaced");
    assert_eq!(world.authorities().len(), 1);
}

#[test]
fn a_new_authority_is_trusted_by_all_before_it_signs_anything() {
    let mut world = World::internal();
    world.settle(NOW);
    for renewal in 1..=10 {
        world.settle(days(renewal * 336));
    }
    let old = world.authorities()[0].clone();
    let soon = days(3650 - 29);
    assert!(world.settle(soon) >= 2);
    let [newest, before] = &world.authorities()[..] else { panic!("no overlap") };
    assert_eq!(*before, old);
    let pooler = id(MULTIPOOLER);
    assert!(world.leaf(&pooler).signed_by(&old), "nobody trusts the new one yet");
    assert_eq!(Certificate::all(world.content(&pooler).get(AUTHORITY).unwrap()).unwrap(), world.authorities());
    let newest = newest.clone();
    assert_eq!(world.settle(soon + SignedDuration::from_hours(24 * 6)), 0);
    assert_eq!(world.settle(soon + SignedDuration::from_hours(24 * 7)), 1);
    assert!(world.leaf(&pooler).signed_by(&newest));
}

#[test]
fn a_leaf_that_ends_while_a_new_authority_spreads_waits_for_it() {
    let long = SignedDuration::from_hours(24 * 3650);
    let old = Authority::generate("old", NOW, long).unwrap();
    let new = Authority::generate("new", days(10), long).unwrap();
    let both = pki::bundle(&new.pair().certificate, &old.pair().certificate, days(10)).unwrap();
    let ours = |name: &str, texts: &[(&str, &str)]| {
        let data = texts.iter().map(|(key, text)| ((*key).to_owned(), ByteString(text.as_bytes().to_vec()))).collect();
        let metadata = owner("u").meta(name.to_owned(), label::Labels::new());
        Held::labelled(&Secret { metadata, data: Some(data), ..Secret::default() }, &owner("u"))
    };
    let mut world = World::internal();
    world.held.insert(CA.to_owned(), ours(CA, &[(CA_KEYS[0], &both), (CA_KEYS[1], &new.pair().key)]));
    for leaf in &world.wanted.leaves {
        let request = Request { valid_for: SignedDuration::from_hours(24 * 30), ..leaf.request.clone() };
        let pair = old.issue(&request, NOW).unwrap();
        let texts = [(CERTIFICATE, &*pair.certificate), (PRIVATE_KEY, &pair.key), (AUTHORITY, &both)];
        world.held.insert(leaf.secret.clone(), ours(&leaf.secret, &texts));
    }
    assert_eq!(world.settle(days(12)), 0, "nobody trusts the new authority yet");
    assert_eq!(world.settle(days(17)), 1);
    assert!(world.leaf(&id(MULTIORCH)).signed_by(&world.authorities()[0]));
}

#[test]
fn what_was_deleted_is_made_again() {
    let mut world = World::internal();
    world.settle(NOW);
    world.held.remove(&id(MULTIORCH));
    assert_eq!(world.due(NOW).create.len(), 1);
    world.settle(NOW);
    let lost = world.authorities()[0].clone();
    world.held.remove(CA);
    assert_eq!(world.settle(days(1)), 2, "a new authority, which all have to trust first");
    let pooler = id(MULTIPOOLER);
    assert_eq!(world.authorities().len(), 2);
    assert!(world.leaf(&pooler).signed_by(&lost));
    assert_eq!(world.settle(days(8)), 1);
    assert!(!world.leaf(&pooler).signed_by(&lost));
}

#[test]
fn certificates_of_the_user_are_used_and_never_written() {
    let mut world = World::internal();
    for component in [MULTIADMIN, MULTIORCH, MULTIPOOLER] {
        world.put(&id(component), brought(&[&id(component)], days(300)));
    }
    let due = world.due(NOW);
    assert!(due.create.is_empty() && due.renew.is_empty());
    assert_eq!(due.problems.len(), 1, "{:?}", due.problems);
    assert!(due.problems[0].starts_with("Secret multigateway.demo.prod.multigres.internal does not exist"));
    world.put(&id(MULTIGATEWAY), brought(&[&id(MULTIGATEWAY), &id(MULTIPOOLER)], days(300)));
    assert!(world.due(NOW).problems.is_empty(), "the controller shows the certificate of multiadmin");
    assert!(world.due(days(200)).problems.is_empty());
    assert_eq!(world.due(days(290)).problems.len(), 4, "whoever made them has to renew them");
}

#[test]
fn what_is_wrong_with_certificates_of_the_user_is_told() {
    let mut world = World::internal();
    world.put(&id(MULTIPOOLER), brought(&["pooler.example.com"], days(300)));
    let told = world.due(NOW).problems.join("; ");
    assert!(told.contains("is not made out to multipooler.demo.prod.multigres.internal"), "{told}");
    world.put(&id(MULTIPOOLER), Content::default());
    assert!(world.due(NOW).problems.join("; ").contains("has no key tls.crt"));
    world.held.insert(id(MULTIPOOLER), Held::Unreadable("Forbidden"));
    assert!(world.due(NOW).problems.join("; ").contains("cannot be read (Forbidden)"));
}

#[test]
fn an_authority_of_the_user_signs_and_is_never_replaced() {
    let mut world = World::internal();
    let theirs = Authority::generate("theirs", NOW, SignedDuration::from_hours(24 * 100)).unwrap();
    let data = [(CA_KEYS[0], &theirs.pair().certificate), (CA_KEYS[1], &theirs.pair().key)];
    let data = data.map(|(key, text)| (key.to_owned(), ByteString(text.clone().into_bytes()))).into();
    world.put(CA, Content::of(&Secret { data: Some(data), ..Secret::default() }));
    assert_eq!(world.settle(NOW), 1);
    assert!(world.leaf(&id(OPERATOR)).signed_by(&Certificate::first(&theirs.pair().certificate).unwrap()));
    let late = world.due(days(90));
    assert!(late.create.is_empty() && late.renew.is_empty());
    assert!(late.problems[0].contains("is not ours and cannot sign certificates (Expiring)"), "{:?}", late.problems);
}

#[test]
fn the_public_certificate_is_for_servers_and_has_the_name_without_its_prefix() {
    let mut world = World::public();
    assert_eq!(world.settle(NOW), 2);
    let leaf = world.leaf(PUBLIC_CERTIFICATE);
    assert_eq!(leaf.common_name(), "db.example.com");
    assert_eq!(leaf.dns_names().iter().collect::<Vec<_>>(), ["db.example.com", "example.com"]);
    assert!(!world.held.contains_key(&id(OPERATOR)));
}

#[test]
fn a_public_certificate_of_somebody_else_is_left_alone_and_judged_by_its_names() {
    let mut world = World::public();
    world.put(PUBLIC_CERTIFICATE, brought(&["*.example.com"], days(300)));
    let due = world.due(NOW);
    assert_eq!(due, Certificates::default(), "not even an authority is made");
    world.put(PUBLIC_CERTIFICATE, brought(&["db.example.org"], days(300)));
    assert!(world.due(NOW).problems[0].contains("is not made out to db.example.com, example.com"));
}

#[test]
fn secrets_of_a_cluster_of_the_same_name_that_is_gone_are_neither_used_nor_written() {
    let mut world = World::internal();
    let before = owner("before");
    let maker = Maker {
        owner: &before,
        name: CA,
        held: &Held::Absent,
        authority: None,
        bundle: &[],
        trusted: String::new(),
        now: NOW,
    };
    let Made::New(left) = maker.authority(Reason::Missing).unwrap() else { panic!("it makes none") };
    world.held = BTreeMap::from([(CA.to_owned(), Held::labelled(&left, &world.owner))]);
    let due = world.due(NOW);
    assert!(due.create.is_empty() && due.renew.is_empty() && due.problems.is_empty());
}
