"""What the checks of client.py stand on: the connection, xvsadm to compare with, and the table of methods.

The rule: a method counts as called if its name went out on the wire in a check that says it calls it.
"""

import json
import os
import subprocess

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

# Seconds that any one call may take, on a busy machine.
PATIENCE = 60


def well_known(folder):
    """Messages of the standard services, by their full names, from descriptor sets in a folder."""
    pool = descriptor_pool.DescriptorPool()
    files = {}
    for name in ("health.bin", "reflection.bin", "status.bin"):
        with open(os.path.join(folder, name), "rb") as octets:
            for file in descriptor_pb2.FileDescriptorSet.FromString(octets.read()).file:
                files.setdefault(file.name, file)
    while files:
        ready = [f for f in files.values() if not any(d in files for d in f.dependency)]
        for file in ready:
            pool.Add(file)
            del files[file.name]
    factory = message_factory.MessageFactory(pool)
    return lambda name: factory.GetPrototype(pool.FindMessageTypeByName(name))


class Recorder(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Notes the path of every call."""

    def __init__(self):
        self.called = set()

    def _note(self, continuation, details, request):
        method = details.method
        method = method.decode() if isinstance(method, bytes) else method
        self.called.add(method.lstrip("/"))
        return continuation(details._replace(timeout=details.timeout or PATIENCE), request)

    intercept_unary_unary = _note
    intercept_unary_stream = _note
    intercept_stream_stream = _note


class Table:
    """The checks, each with the methods that it calls."""

    def __init__(self):
        self.checks = []

    def calls(self, service, *methods):
        """Enters a function: it calls these methods of a service."""

        def enter(function):
            self.checks.append(([f"{service}/{method}" for method in methods], function))
            return function

        return enter

    def run(self, box, without):
        """Runs all but those that call a method called `without`; gives back what was called."""
        for methods, function in self.checks:
            if any(method.endswith(f"/{without}") for method in methods):
                continue
            box.recorder.called.clear()
            box.empty()
            function(box)
            silent = set(methods) - box.recorder.called
            assert not silent, f"{function.__name__} does not call {sorted(silent)}"
            print(f"{function.__name__}: {', '.join(method.split('/')[1] for method in methods)}")
            yield from methods


class Box:
    """A running xvsd: by gRPC and by xvsadm."""

    def __init__(self, socket, xvsadm, descriptors):
        self.recorder = Recorder()
        self.channel = grpc.intercept_channel(grpc.insecure_channel(f"unix:{socket}"), self.recorder)
        self.address, self.program = f"unix:{socket}", xvsadm
        self.folder = os.path.dirname(socket)
        self.type = well_known(descriptors)
        self.empty = lambda: None

    def adm(self, line, succeeds=True):
        """What `xvsadm` prints, on standard error if it is to fail."""
        environment = dict(os.environ, XVS_SERVER=self.address)
        done = subprocess.run(
            [self.program, *line.split()],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert (done.returncode == 0) == succeeds, f"xvsadm {line}: {done}"
        return done.stdout if succeeds else done.stderr

    def same(self, answer, line):
        """Asserts that `xvsadm` tells a program the same message."""
        told = json_format.Parse(self.adm(f"{line} -o json"), type(answer)())
        assert told == answer, f"xvsadm {line}:\n{told}\ngRPC:\n{answer}"

    def first_line(self, line, kind):
        """The first message that an `xvsadm` tells which does not end by itself."""
        environment = dict(os.environ, XVS_SERVER=self.address)
        words = [self.program, *line.split(), "-o", "json"]
        with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as running:
            told = running.stdout.readline()
            running.kill()
        return json_format.Parse(told, kind())

    def lines(self, line, kind):
        """The messages that `xvsadm` tells a program one by one."""
        told = self.adm(f"{line} -o json").splitlines()
        return [json_format.ParseDict(json.loads(each), kind()) for each in told]

    def call(self, path, request, answer, way="unary_unary"):
        """A method of a standard service, for which no stubs were generated."""
        call = getattr(self.channel, way)(
            path, request_serializer=lambda m: m.SerializeToString(), response_deserializer=answer.FromString
        )
        return call(request)

    def refused(self, call, request, code, reason, field=None):
        """Asserts that a call is refused like that; gives back the message and the ErrorInfo."""
        try:
            answer = call(request)
            if hasattr(answer, "__next__"):
                next(answer)
        except grpc.RpcError as error:
            details = dict(error.trailing_metadata())["grpc-status-details-bin"]
            status = self.type("google.rpc.Status").FromString(details)
            assert error.code() == code, error
            assert (status.code, status.message) == (code.value[0], error.details()), status
            found = {detail.type_url.rsplit("/", 1)[-1]: detail.value for detail in status.details}
            info = self.type("google.rpc.ErrorInfo").FromString(found["google.rpc.ErrorInfo"])
            assert (info.domain, info.reason) == ("xvs", reason), info
            if field is not None:
                bad = self.type("google.rpc.BadRequest").FromString(found["google.rpc.BadRequest"])
                named = [violation.field for violation in bad.field_violations]
                assert named == [field], f"{named} in place of {field}"
                assert all(violation.description for violation in bad.field_violations), bad
            return error.details(), info
        raise AssertionError(f"taken: {request}")


def described(modules):
    """Every method that generated modules describe, as `package.Service/Method`."""
    services = [s for module in modules for s in module.DESCRIPTOR.services_by_name.values()]
    return {f"{s.full_name}/{method.name}" for s in services for method in s.methods}


def reflected(box):
    """Every method that the daemon itself describes, by reflection."""
    request_type = box.type("grpc.reflection.v1.ServerReflectionRequest")
    answer_type = box.type("grpc.reflection.v1.ServerReflectionResponse")
    path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"

    def ask(**request):
        answers = box.call(path, iter([request_type(**request)]), answer_type, "stream_stream")
        (answer,) = list(answers)
        return answer

    methods = set()
    for service in ask(list_services="").list_services_response.service:
        answer = ask(file_containing_symbol=service.name).file_descriptor_response
        for octets in answer.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(octets)
            for each in file.service:
                if f"{file.package}.{each.name}" == service.name:
                    methods |= {f"{service.name}/{method.name}" for method in each.method}
    return methods
