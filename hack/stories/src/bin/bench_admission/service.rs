//! The service under load: the real server over TLS, and the real reviewer over stores that hold what is asked for.

use std::{
    io::Read as _,
    sync::Arc,
    time::{Duration, SystemTime},
};

use admission::{
    lookup::{Fixed, World},
    reviewer::{Options, Reviewer},
    server::{Limits, Server, Settings},
};
use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use shared::{
    admin::Bind,
    metrics::{Build, Metrics},
    pki, resolve,
    validate::{StorageClasses, Surroundings},
};
use tokio_util::sync::CancellationToken;

use crate::{
    object,
    process::{self, Address},
};

/// What the operator's own configuration contributes.
pub fn settings() -> resolve::Settings {
    resolve::Settings::default()
}

/// Storage classes as most clusters have them.
pub fn surroundings() -> Surroundings {
    let classes = StorageClasses { names: ["standard".to_owned()].into(), has_default: true };
    Surroundings { storage_classes: Some(classes), nodes: None }
}

/// The reviewer over a namespace with the templates that are named.
pub fn reviewer() -> Result<Reviewer> {
    let world = World {
        templates: [("default".to_owned(), Arc::new(object::templates()?))].into(),
        surroundings: Arc::new(surroundings()),
        ..World::default()
    };
    let options = Options {
        settings: settings(),
        controller: "system:serviceaccount:multigres-operator:multigres-operator-controller-manager".to_owned(),
        writers: Vec::new(),
        writer_groups: Vec::new(),
    };
    Ok(Reviewer::new(Arc::new(Fixed::new(world)), options))
}

/// Serves on one core until standard input ends.
pub fn run() -> Result<()> {
    let core = process::bind_to_core(0)?;
    let now = Timestamp::try_from(SystemTime::now())?;
    let day = SignedDuration::from_hours(24);
    let authority = pki::Authority::generate("bench", now, day)?;
    let wanted = pki::Request {
        common_name: "localhost".to_owned(),
        dns_names: ["localhost".to_owned()].into(),
        valid_for: day,
    };
    let leaf = authority.issue(&wanted, now)?;
    let chain = CertificateDer::pem_slice_iter(leaf.certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes())?;
    let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let settings = Settings {
        bind: Bind::Host("127.0.0.1".to_owned(), 0),
        limits: Limits::default(),
        drain: Duration::ZERO,
        linger: Duration::ZERO,
        workers: Some(1),
    };
    let metrics = Metrics::new(Build { version: env!("CARGO_PKG_VERSION"), revision: "bench" })?;
    let server = Server::new(settings, Arc::new(reviewer()?), Arc::new(tls), &metrics)?;
    let address = Address { port: server.address().port(), authority: authority.pair().certificate.clone(), core };
    println!("{}", serde_json::to_string(&address)?);

    let stop = CancellationToken::new();
    let stopped = stop.clone();
    std::thread::spawn(move || {
        // Whatever ends the wait, the service ends with it.
        drop(std::io::stdin().read(&mut [0]));
        stop.cancel();
    });
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(server.run(stopped))?;
    Ok(())
}
