# The first packets of TDS ([MS-TDS] 2.2.6.5 and 3.2.5.1): PRELOGIN both ways, then a TLS handshake whose records are
# the payload of PRELOGIN packets, then records as they are.
import socket
import socketserver
import ssl
import sys

PRELOGIN, RESPONSE = 0x12, 0x04
# VERSION and ENCRYPTION (on), their places, the end; then the values.
OPTIONS = bytes.fromhex("00000b0006 0100110001 ff") + bytes.fromhex("0f0007d00000") + b"\x01"


def packet(kind, payload):
    return bytes([kind, 1]) + (len(payload) + 8).to_bytes(2, "big") + b"\x00\x00\x01\x00" + payload


def exactly(wire, count):
    got = b""
    while len(got) < count:
        more = wire.recv(count - len(got))
        if not more:
            raise SystemExit(f"the connection ended after {got.hex()}")
        got += more
    return got


def read_packet(wire):
    head = exactly(wire, 8)
    return head, exactly(wire, int.from_bytes(head[2:4], "big") - 8)


class Inside:
    """TLS over memory, whose bytes travel in packets until the handshake is done."""

    def __init__(self, wire, context, server):
        self.wire, self.incoming, self.outgoing = wire, ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=server)
        self.wrapped = True

    def run(self, step):
        while True:
            try:
                result = step()
                self.flush()
                return result
            except ssl.SSLWantReadError:
                self.flush()
                self.incoming.write(read_packet(self.wire)[1] if self.wrapped else self.wire.recv(65536))

    def flush(self):
        if self.outgoing.pending:
            bytes = self.outgoing.read()
            self.wire.sendall(packet(PRELOGIN, bytes) if self.wrapped else bytes)

    def handshake(self):
        self.run(self.tls.do_handshake)
        self.wrapped = False


def context(server):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    # TDS 7 does not know 1.3: its first records after the handshake would still be in packets.
    made.maximum_version = ssl.TLSVersion.TLSv1_2
    if server:
        made.load_cert_chain(sys.argv[3], sys.argv[4])
    else:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    return made


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    address_family = socket.AF_INET6


class Connection(socketserver.BaseRequestHandler):
    def handle(self):
        if not self.request.recv(1, socket.MSG_PEEK):
            return
        head, options = read_packet(self.request)
        print("got prelogin", (head + options).hex())
        self.request.sendall(packet(RESPONSE, OPTIONS))
        inside = Inside(self.request, context(True), True)
        inside.handshake()
        login = b""
        while len(login) < 5000:
            login += inside.run(lambda: inside.tls.read(65536))
        print("got login", login.hex())
        inside.run(lambda: inside.tls.write(b"the login is taken"))


def client(port, host):
    with socket.create_connection((host, port), timeout=30) as wire:
        first = packet(PRELOGIN, OPTIONS)
        wire.sendall(first)
        print("sent prelogin", first.hex())
        head, options = read_packet(wire)
        if head[0] != RESPONSE or options != OPTIONS:
            raise SystemExit(f"the answer is {head.hex()} {options.hex()}")
        inside = Inside(wire, context(False), False)
        inside.handshake()
        login = bytes(range(250)) * 20
        inside.run(lambda: inside.tls.write(login))
        print("sent login", login.hex())
        print("got answer", inside.run(lambda: inside.tls.read(65536)).decode())


if sys.argv[1] == "server":
    Server(("::", int(sys.argv[2])), Connection).serve_forever()
else:
    client(int(sys.argv[2]), sys.argv[3])
