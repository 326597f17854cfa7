"""A client that protoc and gRPC generated calls every method of a running xvsd, and compares with xvsadm.

    client.py SOCKET XVSADM DESCRIPTORS [METHOD]

The stubs stand in PYTHONPATH; DESCRIPTORS is a folder with those of the standard services. Fails if the
daemon describes a method that no check calls: a new one needs a function here, below `@table.calls`. With
METHOD its check is left out, which must fail.
"""

import sys
import time

import grpc
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from xvs.v1 import diagnostics_pb2 as diagnostics
from xvs.v1 import diagnostics_pb2_grpc, health_pb2_grpc, load_balancer_pb2_grpc, operations_pb2_grpc
from xvs.v1 import health_pb2 as health
from xvs.v1 import load_balancer_pb2 as balancer
from xvs.v1 import operations_pb2 as operations
from xvs.v1 import types_pb2 as types

from harness import PATIENCE, Box, Table, described, reflected

BALANCER = "xvs.v1.LoadBalancerService"
DIAGNOSTICS = "xvs.v1.DiagnosticsService"
OPERATIONS = "xvs.v1.OperationsService"
CHECKS = "xvs.v1.HealthCheckService"
HEALTH = "grpc.health.v1.Health"
INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
WEB = "-t 10.0.0.1:80"

# What was generated, but for the standard services.
MODULES = [balancer, diagnostics, operations, health]

table = Table()


def key(port=80):
    """A service of TCP."""
    address = types.VirtualAddress(protocol=types.PROTOCOL_TCP, address="10.0.0.1", port=port)
    return types.ServiceKey(address=address)


def entry(port=80, scheduler="rr", reals=("10.2.0.11", "10.2.0.12")):
    """A service with real servers by nat."""
    service = types.Service(key=key(port), scheduler=scheduler)
    servers = [types.RealServer(address=real, port=8080, method="nat") for real in reals]
    return balancer.ServiceEntry(service=service, real_servers=servers)


def serve(box, *entries, **more):
    """Makes these services the present ones."""
    return box.lb.Apply(balancer.ApplyRequest(services=entries or [entry()], **more))


def listed(box):
    """All services as gRPC lists them, which is as xvsadm does."""
    services = [answer.service for answer in box.lb.ListServices(balancer.ListServicesRequest())]
    told = box.lines("get", types.ServiceStatus)
    assert told == services, f"xvsadm get:\n{told}\ngRPC:\n{services}"
    return services


@table.calls(BALANCER, "CreateService", "UpdateService", "GetService", "ListServices", "DeleteService")
def services_come_edit_and_go(box):
    service = entry().service
    box.lb.CreateService(balancer.CreateServiceRequest(service=service))
    assert box.adm("-S -n") == f"-A {WEB} -s rr\n"
    create = balancer.CreateServiceRequest(service=service)
    exists = grpc.StatusCode.ALREADY_EXISTS
    message, _ = box.refused(box.lb.CreateService, create, exists, "SERVICE_EXISTS")
    assert message in box.adm(f"-A {WEB}", succeeds=False)
    service.scheduler = "wlc"
    before = listed(box)[0].service
    box.lb.UpdateService(balancer.UpdateServiceRequest(service=service))
    (after,) = listed(box)
    assert (before.scheduler, after.service.scheduler) == ("rr", "wlc")
    assert box.lb.GetService(balancer.GetServiceRequest(key=key())).service == after
    box.lb.DeleteService(balancer.DeleteServiceRequest(key=key()))
    assert listed(box) == [] and box.adm("-S -n") == ""


@table.calls(BALANCER, "FlushServices")
def all_services_go_at_once(box):
    serve(box, entry(80), entry(81))
    assert len(listed(box)) == 2
    box.lb.FlushServices(balancer.FlushServicesRequest())
    assert listed(box) == []


@table.calls(BALANCER, "CreateRealServer", "UpdateRealServer", "DeleteRealServer")
def real_servers_come_edit_and_go(box):
    serve(box, entry(reals=()))
    real = types.RealServer(address="10.2.0.11", port=8080, method="nat", weight=3)
    box.lb.CreateRealServer(balancer.CreateRealServerRequest(service=key(), real_server=real))
    assert box.adm("-S -n").endswith(f"-a {WEB} -r 10.2.0.11:8080 -m -w 3\n")
    real.weight = 7
    box.lb.UpdateRealServer(balancer.UpdateRealServerRequest(service=key(), real_server=real))
    assert [r.real_server.weight for r in listed(box)[0].real_servers] == [7]
    name = types.RealServerKey(address="10.2.0.11", port=8080)
    gone = balancer.DeleteRealServerRequest(service=key(), real_server=name)
    box.lb.DeleteRealServer(gone)
    assert len(listed(box)[0].real_servers) == 0
    message, _ = box.refused(box.lb.DeleteRealServer, gone, NOT_FOUND, "NO_SUCH_REAL")
    assert message in box.adm(f"-d {WEB} -r 10.2.0.11:8080", succeeds=False)


@table.calls(BALANCER, "Apply", "Plan")
def nobody_overwrites_a_change_unseen(box):
    first = serve(box)
    assert {change.kind for change in first.changes} == {balancer.Change.KIND_CREATED}
    wanted = balancer.ApplyRequest(services=[entry(scheduler="wlc"), entry(81)])
    plan = box.lb.Plan(balancer.PlanRequest(apply=wanted))
    assert plan.generation == first.generation and len(plan.changes) == 4
    with open(f"{box.folder}/rules", "w", encoding="utf-8") as rules:
        for port, scheduler in ((80, "wlc"), (81, "rr")):
            rules.write(f"-A -t 10.0.0.1:{port} -s {scheduler}\n")
            for real in (11, 12):
                rules.write(f"-a -t 10.0.0.1:{port} -r 10.2.0.{real}:8080 -m -w 1\n")
    told = balancer.ApplyResponse(generation=plan.generation, changes=plan.changes)
    box.same(told, f"apply -f {box.folder}/rules --plan")
    wanted.expected_generation, wanted.validate_only = first.generation, True
    assert list(box.lb.Apply(wanted).changes) == list(plan.changes)
    # Somebody else is faster: the update that would be lost is refused.
    box.adm(f"-e {WEB} -r 10.2.0.11:8080 -m -w 5")
    wanted.validate_only = False
    aborted = grpc.StatusCode.ABORTED
    _, info = box.refused(box.lb.Apply, wanted, aborted, "GENERATION_MISMATCH")
    present = box.diagnose.GetInfo(diagnostics.GetInfoRequest()).generation
    assert int(info.metadata["generation"]) == present > first.generation
    assert "-w 5" in box.adm("-S -n"), "what the other one did stays"
    wanted.expected_generation = present
    assert box.lb.Apply(wanted).generation > present
    assert len(listed(box)) == 2


@table.calls(BALANCER, "GetTimeouts", "SetTimeouts")
def timeouts_are_set_and_shown(box):
    before = box.lb.GetTimeouts(balancer.GetTimeoutsRequest()).timeouts
    box.lb.SetTimeouts(balancer.SetTimeoutsRequest(timeouts=types.Timeouts(tcp_fin_seconds=77)))
    after = box.lb.GetTimeouts(balancer.GetTimeoutsRequest()).timeouts
    assert after == types.Timeouts(tcp_seconds=before.tcp_seconds, tcp_fin_seconds=77, udp_seconds=before.udp_seconds)
    shown = f"{after.tcp_seconds} {after.tcp_fin_seconds} {after.udp_seconds}"
    assert shown in box.adm("-L --timeout"), shown
    wrong = balancer.SetTimeoutsRequest(timeouts=types.Timeouts(udp_seconds=2147484))
    box.refused(box.lb.SetTimeouts, wrong, INVALID, "INVALID", "timeouts.udp_seconds")


@table.calls(BALANCER, "GetSettings", "SetSetting")
def settings_are_set_and_shown(box):
    setting = types.Setting(name="expire_nodest_conn", value="1")
    box.lb.SetSetting(balancer.SetSettingRequest(setting=setting))
    settings = box.lb.GetSettings(balancer.GetSettingsRequest())
    assert setting in settings.settings
    box.same(settings, "settings")
    setting.value = "yes"
    request = balancer.SetSettingRequest(setting=setting)
    box.refused(box.lb.SetSetting, request, INVALID, "INVALID", "setting.value")


@table.calls(BALANCER, "ListMarkRules", "SetMarkRules", "CreateMarkRule", "DeleteMarkRule")
def rules_of_marks_come_and_go(box):
    rules = [
        types.MarkRule(mark=5, selector=types.Selector(to="10.3.0.0/16")),
        types.MarkRule(mark=0, selector=types.Selector(to="10.3.0.7", first_port=80)),
    ]
    box.lb.SetMarkRules(balancer.SetMarkRulesRequest(rules=types.MarkRules(rules=rules[:1])))
    box.lb.CreateMarkRule(balancer.CreateMarkRuleRequest(rule=rules[1]))
    both = box.lb.ListMarkRules(balancer.ListMarkRulesRequest())
    assert [rule.mark for rule in both.rules.rules] == [5, 0]
    box.same(both, "mark list")
    box.lb.DeleteMarkRule(balancer.DeleteMarkRuleRequest(rule=rules[1]))
    gone = balancer.DeleteMarkRuleRequest(rule=rules[1])
    box.refused(box.lb.DeleteMarkRule, gone, NOT_FOUND, "NO_SUCH_MARK_RULE")
    wrong = types.MarkRule(mark=5, selector=types.Selector(to="10.3.0.0/33"))
    request = balancer.CreateMarkRuleRequest(rule=wrong)
    box.refused(box.lb.CreateMarkRule, request, INVALID, "INVALID", "rule.selector.to")
    box.lb.SetMarkRules(balancer.SetMarkRulesRequest(rules=types.MarkRules()))
    box.same(box.lb.ListMarkRules(balancer.ListMarkRulesRequest()), "mark list")


@table.calls(BALANCER, "GetLocalPool", "SetLocalPool")
def local_addresses_are_set_and_shown(box):
    pool = types.LocalPool(addresses=["10.2.0.200"], first_port=20000, last_port=30000)
    box.lb.SetLocalPool(balancer.SetLocalPoolRequest(local_pool=pool))
    assert box.lb.GetLocalPool(balancer.GetLocalPoolRequest()).local_pool == pool
    box.same(pool, "local show")
    box.lb.SetLocalPool(balancer.SetLocalPoolRequest(local_pool=types.LocalPool()))


@table.calls(BALANCER, "ZeroCounters")
def counters_are_zeroed(box):
    serve(box)
    box.lb.ZeroCounters(balancer.ZeroCountersRequest(service=key()))
    box.lb.ZeroCounters(balancer.ZeroCountersRequest())
    assert listed(box)[0].counters == types.Counters()
    missing = balancer.ZeroCountersRequest(service=key(81))
    message, _ = box.refused(box.lb.ZeroCounters, missing, NOT_FOUND, "NO_SUCH_SERVICE")
    assert message in box.adm("-Z -t 10.0.0.1:81", succeeds=False)


@table.calls(BALANCER, "ListFlows")
@table.calls(OPERATIONS, "CountFlows", "DeleteFlows")
def flows_are_listed_counted_and_ended(box):
    # A daemon without interfaces has none; what flows are like, the tests with traffic show.
    flows, token = [], ""
    while True:
        page = box.lb.ListFlows(balancer.ListFlowsRequest(page_size=10, page_token=token))
        flows, token = flows + list(page.flows), page.next_page_token
        if not token:
            break
    assert flows == box.lines("flows", types.Flow)
    box.same(box.operate.CountFlows(operations.CountFlowsRequest()), "flows --count")
    box.same(box.operate.DeleteFlows(operations.DeleteFlowsRequest(all=True)), "flows --delete --all")
    wrong = balancer.ListFlowsRequest(filter=balancer.FlowFilter(client_address="10.0.0.300"))
    box.refused(box.lb.ListFlows, wrong, INVALID, "INVALID", "filter.client_address")
    box.refused(box.operate.DeleteFlows, operations.DeleteFlowsRequest(), INVALID, "INVALID", "filter")


@table.calls(OPERATIONS, "Drain", "CancelDrain", "ListDrains")
def a_real_server_is_drained_and_given_back(box):
    serve(box)
    name = types.RealServerKey(address="10.2.0.11", port=8080)
    request = operations.DrainRequest(service=key(), real_server=name, deadline=Duration(seconds=600))
    last = list(box.operate.Drain(request))[-1].drain
    assert last.phase == operations.Drain.PHASE_DRAINED, last
    drains = box.operate.ListDrains(operations.ListDrainsRequest()).drains
    snapshot = box.first_line("watch", operations.WatchResponse).snapshot
    assert list(drains) == list(snapshot.drains) and len(drains) == 1
    assert [real.held for real in listed(box)[0].real_servers] == [False, True]
    cancel = operations.CancelDrainRequest(service=key(), real_server=name)
    box.operate.CancelDrain(cancel)
    assert not box.operate.ListDrains(operations.ListDrainsRequest()).drains
    box.refused(box.operate.CancelDrain, cancel, NOT_FOUND, "NO_SUCH_DRAIN")
    request.real_server.address = "10.2.0.99"
    message, _ = box.refused(box.operate.Drain, request, NOT_FOUND, "NO_SUCH_REAL")
    assert message in box.adm(f"drain {WEB} -r 10.2.0.99:8080", succeeds=False)


@table.calls(OPERATIONS, "Explain")
def a_packet_is_explained(box):
    serve(box, entry(scheduler="sh"))
    packet = operations.FiveTuple(
        protocol=types.PROTOCOL_TCP,
        source_address="10.9.0.1",
        source_port=4711,
        destination_address="10.0.0.1",
        destination_port=80,
    )
    said = box.operate.Explain(operations.ExplainRequest(tuple=packet))
    assert said.service == key() and said.scheduler == "sh" and len(said.choices) == 2
    box.same(said, "explain tcp 10.9.0.1:4711 10.0.0.1:80")
    packet.destination_address = "fd00::1"
    wrong = operations.ExplainRequest(tuple=packet)
    box.refused(box.operate.Explain, wrong, INVALID, "INVALID", "tuple.destination_address")


@table.calls(OPERATIONS, "Watch")
def what_happens_is_told(box):
    serve(box)
    watch = box.operate.Watch(operations.WatchRequest())
    snapshot = next(watch).snapshot
    assert list(snapshot.services) == listed(box)
    told = box.first_line("watch", operations.WatchResponse).snapshot
    assert told == snapshot, f"xvsadm watch:\n{told}\ngRPC:\n{snapshot}"
    box.adm(f"-d {WEB} -r 10.2.0.12:8080")
    event = next(watch).configuration
    assert [change.kind for change in event.changes] == [balancer.Change.KIND_DELETED], event
    assert event.changes[0].real_server.address == "10.2.0.12"
    watch.cancel()


@table.calls(OPERATIONS, "Capture")
def packets_are_captured(box):
    # No packet comes to a daemon without interfaces: what there is is the beginning of a file.
    briefly = Duration(nanos=50_000_000)
    pieces = list(box.operate.Capture(operations.CaptureRequest(duration=briefly)))
    octets = b"".join(piece.pcapng for piece in pieces)
    assert octets[:4] == b"\x0a\x0d\x0d\x0a" and b"host in" in octets, octets
    assert (pieces[-1].packets, pieces[-1].lost) == (0, 0)
    told = box.first_line("capture --seconds 1", operations.CaptureResponse)
    assert told == operations.CaptureResponse(), told
    wrong = operations.CaptureRequest(snap_length=1)
    box.refused(box.operate.Capture, wrong, INVALID, "INVALID", "snap_length")


@table.calls(OPERATIONS, "WatchStatistics")
def statistics_come_again_and_again(box):
    serve(box)
    request = operations.WatchStatisticsRequest(interval=Duration(nanos=100_000_000), services=True)
    begun = time.monotonic()
    watch = box.operate.WatchStatistics(request)
    answers = [next(watch) for _ in range(3)]
    watch.cancel()
    assert time.monotonic() - begun >= 0.2, "it keeps the interval"
    assert list(answers[-1].services) == listed(box)
    box.same(answers[-1].statistics, "stats")
    request.interval.nanos = 1
    box.refused(box.operate.WatchStatistics, request, INVALID, "INVALID", "interval")


@table.calls(DIAGNOSTICS, "GetInfo", "GetStatistics")
def the_daemon_says_what_it_is_and_what_it_counted(box):
    info = box.diagnose.GetInfo(diagnostics.GetInfoRequest())
    box.same(info, "info")
    assert box.adm("version") == f"xvsadm {info.version}\n"
    box.same(box.diagnose.GetStatistics(diagnostics.GetStatisticsRequest()), "stats")


@table.calls(CHECKS, "SetHealthPolicy", "ListHealth")
def real_servers_are_checked(box):
    # Nobody listens at port 1 of the box itself.
    serve(box, entry(reals=("127.0.0.1",)))
    check = health.HealthCheck(tcp=health.TcpCheck(), port=1, interval_milliseconds=100, fall=1)
    policy = health.HealthPolicy(checks=[check])
    box.checks.SetHealthPolicy(health.SetHealthPolicyRequest(service=key(), policy=policy))

    def found(answer):
        for real in answer.services[0].real_servers:
            del real.checks[:], real.complaints[:]
        return answer

    deadline = time.monotonic() + PATIENCE
    while (answer := box.checks.ListHealth(health.ListHealthRequest())).services[0].up:
        assert time.monotonic() < deadline, f"never found down: {answer}"
        time.sleep(0.05)
    (service,) = answer.services
    assert service.policy.checks[0].tcp == check.tcp and not service.quorum, service
    assert service.real_servers[0].complaints, "it says why"
    told = json_format.Parse(box.adm("health -o json"), health.ListHealthResponse())
    assert found(told) == found(answer), told
    assert listed(box)[0].real_servers[0].share_percent == 0
    check.interval_milliseconds = 7
    wrong = health.SetHealthPolicyRequest(service=key(), policy=health.HealthPolicy(checks=[check]))
    field = "policy.checks[0].interval_milliseconds"
    box.refused(box.checks.SetHealthPolicy, wrong, INVALID, "INVALID", field)
    box.checks.SetHealthPolicy(health.SetHealthPolicyRequest(service=key()))
    assert not box.checks.ListHealth(health.ListHealthRequest()).services


@table.calls(HEALTH, "Check", "Watch")
def the_health_of_every_service_is_told(box):
    request, answer = (box.type(f"grpc.health.v1.HealthCheck{way}") for way in ("Request", "Response"))
    for service in ("", BALANCER, DIAGNOSTICS, OPERATIONS, CHECKS):
        asked = request(service=service)
        assert box.call(f"/{HEALTH}/Check", asked, answer).status == answer.SERVING, service
        watch = box.call(f"/{HEALTH}/Watch", asked, answer, "unary_stream")
        assert next(watch).status == answer.SERVING, service
        watch.cancel()
    try:
        box.call(f"/{HEALTH}/Check", request(service="xvs.v1.NoSuchService"), answer)
    except grpc.RpcError as error:
        assert error.code() == NOT_FOUND, error
    else:
        raise AssertionError("a service that is not there has no health")


@table.calls("grpc.reflection.v1.ServerReflection", "ServerReflectionInfo")
def reflection_describes_what_was_generated(box):
    generated = described(MODULES)
    ours = {method for method in reflected(box) if method.startswith("xvs.")}
    assert ours == generated, ours ^ generated


@table.calls(BALANCER, "CreateService", "CreateRealServer", "Apply")
def a_refusal_names_the_field(box):
    def wrong(change, field, reason="INVALID"):
        request = balancer.CreateServiceRequest(service=entry().service)
        change(request.service)
        box.refused(box.lb.CreateService, request, INVALID, reason, field)

    wrong(lambda s: setattr(s.key.address, "address", "10.0.0.300"), "service.key.address.address")
    wrong(lambda s: setattr(s.key.address, "port", 65536), "service.key.address.port")
    wrong(lambda s: setattr(s, "persistence_seconds", 0), "service.persistence_seconds")
    wrong(lambda s: setattr(s, "scheduler", "rrr"), "service.scheduler", "NO_SUCH_SCHEDULER")
    serve(box, entry(reals=()))
    real = types.RealServer(address="10.2.0.11", method="nat", weight=2**31)
    request = balancer.CreateRealServerRequest(service=key(), real_server=real)
    box.refused(box.lb.CreateRealServer, request, INVALID, "INVALID", "real_server.weight")
    bad = entry(82)
    bad.real_servers[1].weight = 2**31
    request = balancer.ApplyRequest(services=[entry(81), bad])
    field = "services[1].real_servers[1].weight"
    box.refused(box.lb.Apply, request, INVALID, "INVALID", field)
    assert len(listed(box)) == 1, "nothing of it was done"


def main(socket, xvsadm, descriptors, without=None):
    box = Box(socket, xvsadm, descriptors)
    box.lb = load_balancer_pb2_grpc.LoadBalancerServiceStub(box.channel)
    box.diagnose = diagnostics_pb2_grpc.DiagnosticsServiceStub(box.channel)
    box.checks = health_pb2_grpc.HealthCheckServiceStub(box.channel)
    box.operate = operations_pb2_grpc.OperationsServiceStub(box.channel)
    box.empty = lambda: box.adm("-C")
    there = reflected(box) | described(MODULES)
    called = set(table.run(box, without))
    missing = sorted(there - called)
    assert not missing, f"no check calls {', '.join(missing)}"
    print(f"{len(called)} methods called, all that there are")


if __name__ == "__main__":
    main(*sys.argv[1:])
