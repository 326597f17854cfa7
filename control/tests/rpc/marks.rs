//! Rules of marks over the API.

use tonic::Code;
use xvs_control::proto::v1;

use super::{Daemon, LoadBalancer, apply, field, reason};

fn rule(mark: u32, to: &str) -> v1::MarkRule {
    let selector = v1::Selector { to: to.to_owned(), ..v1::Selector::default() };
    v1::MarkRule { mark, selector: Some(selector) }
}

/// The rules there are: mark and destination.
async fn list(client: &mut LoadBalancer) -> Vec<(u32, String)> {
    let listed = client.list_mark_rules(v1::ListMarkRulesRequest {}).await.unwrap().into_inner();
    let rules = listed.rules.unwrap().rules.into_iter();
    rules.map(|rule| (rule.mark, rule.selector.unwrap().to)).collect()
}

#[tokio::test]
async fn rules_of_marks_come_and_go_in_their_order() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client();
    for (mark, to) in [(5, "10.3.0.0/16"), (0, "10.3.0.1"), (5, "fd03::/64")] {
        let request = v1::CreateMarkRuleRequest { rule: Some(rule(mark, to)) };
        let generation = client.create_mark_rule(request).await.unwrap().into_inner().generation;
        assert!(daemon.engine.in_force() >= generation);
    }
    let all = [(5, "10.3.0.0/16"), (0, "10.3.0.1"), (5, "fd03::/64")];
    assert_eq!(list(&mut client).await, all.map(|(mark, to)| (mark, to.to_owned())));
    let selectors = daemon.engine.lock().director.steering_rules().selectors;
    assert!(selectors.is_empty(), "no service of the mark, nothing leaves the kernel");

    let request = v1::DeleteMarkRuleRequest { rule: Some(rule(0, "10.3.0.1")) };
    client.delete_mark_rule(request.clone()).await.unwrap();
    let status = client.delete_mark_rule(request).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "NO_SUCH_MARK_RULE"));

    let key = v1::service_key::Key::Mark(v1::FirewallMark { mark: 5, family: 0 });
    let key = Some(v1::ServiceKey { key: Some(key) });
    let service = v1::Service { key, ..v1::Service::default() };
    let request = v1::CreateServiceRequest { service: Some(service) };
    client.create_service(request).await.unwrap();
    let selectors = daemon.engine.lock().director.steering_rules().selectors;
    let steered: Vec<_> = selectors.iter().map(|selector| selector.to.to_string()).collect();
    assert_eq!(steered, ["10.3.0.0/16"], "the service is one of IPv4 packets");

    let rules = v1::MarkRules { rules: vec![rule(6, "10.4.0.0/16")] };
    let request = v1::SetMarkRulesRequest { rules: Some(rules) };
    client.set_mark_rules(request).await.unwrap();
    assert_eq!(list(&mut client).await, [(6, "10.4.0.0/16".to_owned())]);
}

#[tokio::test]
async fn a_wrong_rule_is_refused_with_its_field_and_changes_nothing() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client();
    let other_family = v1::MarkRule {
        selector: Some(v1::Selector {
            to: "10.0.0.0/24".to_owned(),
            from: "fd00::/64".to_owned(),
            ..v1::Selector::default()
        }),
        mark: 1,
    };
    for (rule, path) in [
        (v1::MarkRule { mark: 1, selector: None }, "rule.selector"),
        (rule(1, "10.0.0.1/24"), "rule.selector.to"),
        (other_family.clone(), "rule.selector.from"),
    ] {
        let request = v1::CreateMarkRuleRequest { rule: Some(rule) };
        let status = client.create_mark_rule(request).await.unwrap_err();
        assert_eq!((status.code(), field(&status).as_str()), (Code::InvalidArgument, path));
    }
    let rules = v1::MarkRules { rules: vec![rule(1, "10.0.0.1"), other_family] };
    let request = v1::ApplyRequest { mark_rules: Some(rules), ..apply(&[]) };
    let status = client.apply(request).await.unwrap_err();
    assert_eq!(field(&status), "mark_rules.rules[1].selector.from");
    assert_eq!(list(&mut client).await, []);
}

#[tokio::test]
async fn a_whole_configuration_brings_its_rules_or_leaves_them() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client();
    let rules = v1::MarkRules { rules: vec![rule(5, "10.3.0.0/16")] };
    let request = v1::ApplyRequest { mark_rules: Some(rules), ..apply(&[]) };
    let first = client.apply(request.clone()).await.unwrap().into_inner();
    assert_eq!(first.changes[0].description, "set 1 rules of marks, were 0");
    assert_eq!(client.apply(request).await.unwrap().into_inner().changes, []);
    client.apply(apply(&[])).await.unwrap();
    assert_eq!(list(&mut client).await, [(5, "10.3.0.0/16".to_owned())]);
}
