# Methods without a schema: messages are bytes.
import sys
import threading
import time
from concurrent import futures

import grpc


def unary(request, context):
    sent = dict(context.invocation_metadata())
    context.send_initial_metadata((("x-first", "before"), ("x-bytes-bin", b"\x00\xff")))
    context.set_trailing_metadata((("x-last", "after"),))
    return request + b" for " + sent["x-who"].encode() + sent["x-who-bin"]


def server_stream(request, context):
    for number in range(int(request)):
        yield b"%d" % number


def client_stream(requests, context):
    return b"%d" % sum(int(request) for request in requests)


def bidi_stream(requests, context):
    for request in requests:
        yield request + b"!"


def status(request, context):
    context.set_trailing_metadata((("grpc-status-details-bin", b"\x08\x05 details \xff"), ("x-why", "because")))
    context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: 100 % sure, naïvely")


def breaks(request, context):
    yield b"one"
    yield b"two"
    context.abort(grpc.StatusCode.INTERNAL, "it broke")


def slow(request, context):
    ended = threading.Event()
    context.add_callback(ended.set)
    left = context.time_remaining()
    known = ", which it knew" if left is not None and left < 60 else ""
    if ended.wait(50):
        print(f"ended early: {request.decode()}{known}")
    return b"late"


def echo(request, context):
    return request


def peer(request, context):
    # Long enough for a GOAWAY to come between.
    time.sleep(0.01)
    return context.peer().encode()


unary_method, stream_out = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
methods = {
    "Unary": unary_method(unary),
    "ServerStream": stream_out(server_stream),
    "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
    "BidiStream": grpc.stream_stream_rpc_method_handler(bidi_stream),
    "Status": unary_method(status),
    "Breaks": stream_out(breaks),
    "Slow": unary_method(slow),
    "Echo": unary_method(echo),
    "Peer": unary_method(peer),
}
sizes = [("grpc.max_receive_message_length", 16 << 20), ("grpc.so_reuseport", 0)]
if len(sys.argv) > 2:
    # Connections get a GOAWAY at this age, and calls that have begun may end.
    sizes += [("grpc.max_connection_age_ms", int(sys.argv[2])), ("grpc.max_connection_age_grace_ms", 120_000)]
server = grpc.server(futures.ThreadPoolExecutor(16), options=sizes)
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("peers.Peers", methods),))
server.add_insecure_port(f"[::]:{sys.argv[1]}")
server.start()
server.wait_for_termination()
