import sys

import grpc

target, scene = sys.argv[1:3]
# No proxy of the environment comes between; names come from the hosts file.
options = [("grpc.max_receive_message_length", 16 << 20), ("grpc.enable_http_proxy", 0)]
channel = grpc.insecure_channel(target, options=options)
TIME = 40


def method(kind, name):
    return getattr(channel, kind)(f"/peers.Peers/{name}")


def unary():
    metadata = (("x-who", "web"), ("x-who-bin", b"\x01\x02"))
    answer, call = method("unary_unary", "Unary").with_call(b"an answer", timeout=TIME, metadata=metadata)
    assert answer == b"an answer for web\x01\x02", answer
    first, last = dict(call.initial_metadata()), dict(call.trailing_metadata())
    assert first["x-first"] == "before" and first["x-bytes-bin"] == b"\x00\xff", first
    assert last["x-last"] == "after", last
    assert call.code() == grpc.StatusCode.OK


def server_stream():
    got = list(method("unary_stream", "ServerStream")(b"1000", timeout=TIME))
    assert got == [b"%d" % number for number in range(1000)], len(got)


def client_stream():
    numbers = (b"%d" % number for number in range(1000))
    got = method("stream_unary", "ClientStream")(numbers, timeout=TIME)
    assert got == b"%d" % sum(range(1000)), got


def bidi_stream():
    # The next question is asked only when the last one is answered: nothing on the way may wait for more.
    import queue

    questions = queue.Queue()
    answers = method("stream_stream", "BidiStream")(iter(questions.get, None), timeout=TIME)
    for number in range(200):
        questions.put(b"%d" % number)
        got = next(answers)
        assert got == b"%d!" % number, got
    questions.put(None)
    assert list(answers) == []


def failure(call):
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise SystemExit("the call succeeded")


def status():
    error = failure(lambda: method("unary_unary", "Status")(b"", timeout=TIME))
    assert error.code() == grpc.StatusCode.NOT_FOUND, error
    assert error.details() == "no such thing: 100 % sure, naïvely", error.details()
    trailers = dict(error.trailing_metadata())
    assert trailers["grpc-status-details-bin"] == b"\x08\x05 details \xff", trailers
    assert trailers["x-why"] == "because", trailers


def breaks():
    assert list(method("unary_stream", "ServerStream")(b"2", timeout=TIME)) == [b"0", b"1"]
    got = []

    def call():
        for message in method("unary_stream", "Breaks")(b"", timeout=TIME):
            got.append(message)

    error = failure(call)
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "it broke"), error
    assert got == [b"one", b"two"], got


def deadline():
    error = failure(lambda: method("unary_unary", "Slow")(b"deadline", timeout=0.5))
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error


def cancel():
    import threading

    call = method("unary_unary", "Slow").future(b"cancel", timeout=TIME * 10)
    threading.Timer(0.5, call.cancel).start()
    try:
        call.result()
        raise SystemExit("the call succeeded")
    except grpc.FutureCancelledError:
        pass


def thousand():
    echo = method("unary_unary", "Echo")
    calls = [echo.future(b"%d" % number, timeout=TIME) for number in range(1000)]
    for number, call in enumerate(calls):
        assert call.result() == b"%d" % number, call


def aging():
    import collections
    import queue

    questions = queue.Queue()
    stream = method("stream_stream", "BidiStream")(iter(questions.get, None), timeout=TIME)
    call = method("unary_unary", "Peer")
    waiting, connections = collections.deque(), set()
    for number in range(1000):
        waiting.append(call.future(b"", timeout=TIME))
        if len(waiting) == 32:
            connections.add(waiting.popleft().result())
        if number % 50 == 0:
            questions.put(b"%d" % number)
            assert next(stream) == b"%d!" % number
    connections.update(future.result() for future in waiting)
    questions.put(None)
    assert list(stream) == []
    assert len(connections) >= 4, f"the server went away too seldom to prove anything: {connections}"


def large():
    message = bytes(range(256)) * (4 << 12)
    assert len(message) == 4 << 20
    assert method("unary_unary", "Echo")(message, timeout=TIME) == message


def refused():
    error = failure(lambda: method("unary_unary", "Echo")(b"", timeout=TIME))
    assert error.code() == grpc.StatusCode.PERMISSION_DENIED, error
    assert error.details() == "not-allowed", error.details()
    # The word and an id, in fields of our own and as google.rpc.Status, and nothing else.
    trailers = dict(error.trailing_metadata())
    assert set(trailers) == {"isthmus-denied", "isthmus-decision", "grpc-status-details-bin"}, trailers
    word, decision = trailers["isthmus-denied"].encode(), trailers["isthmus-decision"].encode()
    assert word == b"not-allowed" and len(decision) == 16, trailers

    def field(number, content):
        return bytes([number << 3 | 2, len(content)]) + content

    info = field(1, word) + field(2, b"mesh.isthmus.dev") + field(3, field(1, b"decision") + field(2, decision))
    detail = field(1, b"type.googleapis.com/google.rpc.ErrorInfo") + field(2, info)
    assert trailers["grpc-status-details-bin"] == b"\x08\x07" + field(2, word) + field(3, detail), trailers


globals()[scene]()
