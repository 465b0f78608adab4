//! Services that are reachable from outside: how they are made, and what the status says on the way.

use k8s_openapi::api::core::v1::{LoadBalancerIngress, LoadBalancerStatus, ServiceSpec, ServiceStatus};
use shared::api::v1alpha1::{ExternalServiceConfig, ExternalServiceType};

use super::*;

fn exposed(config: &ExternalServiceConfig) -> Observed {
    let mut seen = observed(MINIMAL);
    let mut cluster = (*seen.cluster).clone();
    cluster.spec.external_gateway = Some(config.clone());
    cluster.spec.external_admin_web = Some(config.clone());
    seen.cluster = Arc::new(cluster);
    healthy_children(&mut seen);
    see_services(&mut seen);
    seen
}

/// The Services as applied.
fn see_services(seen: &mut Observed) {
    let plan = run(seen);
    seen.gateway_service = applied(&plan, &name::cluster_gateway("minimal")).map(Arc::new);
    seen.web_service = applied(&plan, &name::multiadmin_web("minimal")).map(Arc::new);
}

fn load_balancer() -> ExternalServiceConfig {
    ExternalServiceConfig {
        enabled: true,
        r#type: Some(ExternalServiceType::LoadBalancer),
        annotations: BTreeMap::from([("cloud.example.com/scheme".to_owned(), "internal".to_owned())]),
        ..ExternalServiceConfig::default()
    }
}

fn assigned(service: &mut Option<Arc<Service>>, hostname: Option<&str>, ip: Option<&str>) {
    let ingress = LoadBalancerIngress {
        hostname: hostname.map(str::to_owned),
        ip: ip.map(str::to_owned),
        ..LoadBalancerIngress::default()
    };
    let status = LoadBalancerStatus { ingress: Some(vec![ingress]) };
    let service = service.as_mut().map(Arc::make_mut).unwrap();
    service.status = Some(ServiceStatus { load_balancer: Some(status), ..ServiceStatus::default() });
}

/// Status, reason and endpoint of the gateways and of the web page.
fn said(seen: &Observed) -> [(String, String, String); 2] {
    let status = run(seen).status.unwrap();
    let of = |type_: &str, endpoint: Option<String>| {
        let condition = find(&status.conditions, type_).unwrap();
        (condition.status.clone(), condition.reason.clone(), endpoint.unwrap())
    };
    let endpoint = |status: &Option<shared::api::v1alpha1::ExternalEndpointStatus>| {
        status.as_ref().map(|status| status.external_endpoint.clone())
    };
    [of("GatewayExternalReady", endpoint(&status.gateway)), of("AdminWebExternalReady", endpoint(&status.admin_web))]
}

fn all(status: &str, reason: &str, endpoint: &str) -> (String, String, String) {
    (status.to_owned(), reason.to_owned(), endpoint.to_owned())
}

#[test]
fn a_load_balancer_is_asked_for_and_its_address_awaited() {
    let mut seen = exposed(&load_balancer());
    for service in [&seen.gateway_service, &seen.web_service] {
        let service = service.as_deref().unwrap();
        assert_eq!(service.spec.as_ref().and_then(|spec| spec.type_.as_deref()), Some("LoadBalancer"));
        assert_eq!(service.annotations()["cloud.example.com/scheme"], "internal");
    }
    assert_eq!(said(&seen), [all("False", "AwaitingEndpoint", ""), all("False", "AwaitingEndpoint", "")]);
    assigned(&mut seen.gateway_service, Some("db.example.com"), Some("192.0.2.1"));
    assigned(&mut seen.web_service, Some(""), Some("192.0.2.2"));
    let reached = [all("True", "EndpointReady", "db.example.com"), all("True", "EndpointReady", "192.0.2.2")];
    assert_eq!(said(&seen), reached);
    assert_eq!(said(&seen), reached, "the same every time");
}

#[test]
fn an_address_with_nobody_behind_it_is_not_ready() {
    let addresses = vec!["198.51.100.10".to_owned(), "2001:db8::1".to_owned()];
    let config = ExternalServiceConfig { enabled: true, external_ips: addresses.clone(), ..load_balancer() };
    let mut seen = exposed(&ExternalServiceConfig { r#type: None, ..config });
    let spec =
        |service: &Option<Arc<Service>>| -> ServiceSpec { service.as_deref().and_then(|s| s.spec.clone()).unwrap() };
    assert_eq!(spec(&seen.gateway_service).type_.as_deref(), Some("ClusterIP"));
    assert_eq!(spec(&seen.gateway_service).external_ips, Some(addresses));
    assert_eq!(said(&seen)[0], all("True", "EndpointReady", "198.51.100.10"));
    for cell in &mut seen.cells {
        Arc::make_mut(cell).status.as_mut().unwrap().gateway_ready_replicas = 0;
    }
    seen.web = None;
    assert_eq!(
        said(&seen),
        [all("False", "NoReadyGateways", "198.51.100.10"), all("False", "NoReadyAdminWeb", "198.51.100.10")]
    );
}

#[test]
fn what_is_no_longer_exposed_is_an_ordinary_service_again_and_says_nothing() {
    let mut seen = exposed(&load_balancer());
    assigned(&mut seen.gateway_service, None, Some("192.0.2.1"));
    let before = run(&seen).status.unwrap();
    let mut cluster = (*seen.cluster).clone();
    cluster.status = Some(before);
    cluster.spec.external_gateway = Some(ExternalServiceConfig { enabled: false, ..load_balancer() });
    cluster.spec.external_admin_web = None;
    seen.cluster = Arc::new(cluster);
    let plan = run(&seen);
    let service: Service = applied(&plan, &name::cluster_gateway("minimal")).unwrap();
    assert_eq!(service.spec.as_ref().and_then(|spec| spec.type_.as_deref()), Some("ClusterIP"));
    assert!(!service.annotations().contains_key("cloud.example.com/scheme"));
    let status = plan.status.unwrap();
    assert!(find(&status.conditions, "GatewayExternalReady").is_none());
    assert!(find(&status.conditions, "AdminWebExternalReady").is_none());
    assert_eq!((status.gateway, status.admin_web), (None, None));
}
