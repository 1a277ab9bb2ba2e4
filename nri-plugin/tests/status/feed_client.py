"""A client of the alert feed, generated from the published interface by the protobuf compiler of Debian's gRPC.

    feed_client.py PROTO ADDRESS SCRIPT...

Each part of SCRIPT writes lines of JSON to stdout:
    health              the daemon's answers to HealthCheck and to grpc.health.v1
    alerts:FILTER:N     N alerts, or as many as there are before the stream ends
    messages:FILTER:N   the same of messages
    many:N              how N streams of logs end that are open at once, three on each connection
    logs:FILTER:SECONDS what comes of logs in that time
    decode:KIND:FILE    the message feeder.KIND in FILE, Alert or Log
and "subscribed" as soon as the streams are open.
"""

import json
import os
import subprocess
import sys
import tempfile

proto, address, script = sys.argv[1], sys.argv[2], sys.argv[3:]
generated = tempfile.mkdtemp()
subprocess.run(
    [sys.executable, "-m", "grpc_tools.protoc", f"-I{os.path.dirname(proto)}", f"--python_out={generated}",
     f"--grpc_python_out={generated}", os.path.basename(proto)],
    check=True)
sys.path.insert(0, generated)

import feeder_pb2 as feeder  # noqa: E402
import feeder_pb2_grpc as services  # noqa: E402
import grpc  # noqa: E402
from google.protobuf.json_format import MessageToDict  # noqa: E402


def say(value):
    print(json.dumps(value), flush=True)


def fields(message):
    return MessageToDict(message, preserving_proto_field_name=True)


def stream(kind, filter_, timeout=None):
    stub = services.LogServiceStub(channel)
    method = {"alerts": stub.WatchAlerts, "messages": stub.WatchMessages, "logs": stub.WatchLogs}[kind]
    return method(feeder.RequestMessage(Filter=filter_), timeout=timeout)


channel = grpc.insecure_channel(address)
for part in script:
    verb, *arguments = part.split(":")
    if verb == "health":
        reply = services.LogServiceStub(channel).HealthCheck(feeder.NonceMessage(nonce=-7))
        say({"nonce": reply.Retval})
        # HealthCheckRequest has the service's name in field 1, HealthCheckResponse the status in field 1; SERVING is 1
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        for service in ["", "feeder.LogService"]:
            name = service.encode()
            request = bytes([0x0A, len(name)]) + name if name else b""
            say({"service": service, "status": list(check(request))})
        try:
            channel.unary_unary("/feeder.LogService/Nonsense")(b"")
        except grpc.RpcError as error:
            say({"nonsense": error.code().name})
    elif verb == "many":
        own = [("grpc.use_local_subchannel_pool", 1)]  # else all channels share a connection
        stubs = [services.LogServiceStub(grpc.insecure_channel(address, own)) for _ in range(int(arguments[0]) // 3)]
        watching = [stub.WatchLogs(feeder.RequestMessage(Filter="all"), timeout=2) for stub in stubs * 3]
        codes = [call.code().name for call in watching]
        say({code: codes.count(code) for code in codes})
    elif verb == "decode":
        message = getattr(feeder, arguments[0])()
        with open(arguments[1], "rb") as file:
            message.ParseFromString(file.read())
        say(fields(message))
    elif verb == "logs":
        watching = stream("logs", arguments[0], timeout=float(arguments[1]))
        try:
            for log in watching:
                say(fields(log))
            say({"ended": "OK"})
        except grpc.RpcError as error:
            say({"ended": error.code().name})
    else:
        watching, wanted = stream(verb, arguments[0]), int(arguments[1])
        watching.initial_metadata()
        say("subscribed")
        try:
            for message in watching:
                say(fields(message))
                wanted -= 1
                if wanted == 0:
                    watching.cancel()
                    break
            else:
                say({"ended": watching.code().name})
        except grpc.RpcError as error:
            say({"ended": error.code().name})
