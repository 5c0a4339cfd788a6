"""An OTLP receiver that shares no code with the exporter: opentelemetry-proto's messages under grpcio, or Python's own HTTP
server. Says `listening PORT`, then a line of JSON per export that it took; a slow one a line per export that it keeps waiting.

otlp_receiver.py grpc|http PORT ok|slow|refuse|busy
"""

import gzip
import json
import sys
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

how, port, manner = sys.argv[1], int(sys.argv[2]), sys.argv[3]
lock = threading.Lock()


def say(line):
    with lock:
        print(line, flush=True)


def keep_waiting():
    say(json.dumps("asked"))
    threading.Event().wait()


def value(of):
    return getattr(of, of.WhichOneof("value"))


def tell(request, encoding):
    for group in request.resource_spans:
        spans = [
            {
                "trace": span.trace_id.hex(),
                "span": span.span_id.hex(),
                "parent": span.parent_span_id.hex(),
                "name": span.name,
                "kind": span.kind,
                "start": span.start_time_unix_nano,
                "end": span.end_time_unix_nano,
                "status": span.status.code,
                "attributes": {one.key: value(one.value) for one in span.attributes},
            }
            for scope in group.scope_spans
            for span in scope.spans
        ]
        resource = {one.key: value(one.value) for one in group.resource.attributes}
        say(json.dumps({"encoding": encoding, "resource": resource, "spans": spans}))


class Traces(trace_service_pb2_grpc.TraceServiceServicer):
    def Export(self, request, context):
        import grpc

        if manner == "slow":
            keep_waiting()
        if manner == "refuse":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not these")
        if manner == "busy":
            context.abort(grpc.StatusCode.UNAVAILABLE, "later")
        encoding = dict(context.invocation_metadata()).get("grpc-encoding", "")
        tell(request, encoding)
        return trace_service_pb2.ExportTraceServiceResponse()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if manner == "slow":
            keep_waiting()
        status = {"refuse": 400, "busy": 503}.get(manner, 200)
        if self.path != "/v1/traces" or self.headers["Content-Type"] != "application/x-protobuf":
            status = 404
        encoding = self.headers.get("Content-Encoding", "")
        answer = b""
        if status == 200:
            plain = gzip.decompress(body) if encoding == "gzip" else body
            tell(trace_service_pb2.ExportTraceServiceRequest.FromString(plain), encoding)
            answer = trace_service_pb2.ExportTraceServiceResponse().SerializeToString()
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


if how == "grpc":
    import grpc

    server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Traces(), server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    say(f"listening {bound}")
    server.wait_for_termination()
else:
    httpd = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    say(f"listening {httpd.server_address[1]}")
    httpd.serve_forever()
