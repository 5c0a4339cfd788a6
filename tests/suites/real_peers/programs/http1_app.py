# An HTTP/1 server that shows what arrived, byte by byte: no library between the socket and the answer.
import select
import socket
import socketserver
import sys


class Connection(socketserver.StreamRequestHandler):
    def handle(self):
        while self.one():
            pass

    def one(self):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.rfile.readline(1 << 20)
            if not line:
                return False
            head += line
        request, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = request.split(" ", 2)
        fields = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
        trailers = b""
        if path == "/unwanted":
            return self.unwanted()
        if fields.get("transfer-encoding") == "chunked":
            body, trailers = self.chunks()
        else:
            body = self.rfile.read(int(fields.get("content-length", "0")))
        answer = {
            "/head": lambda: self.known(head),
            "/echo": lambda: self.known(body),
            "/trailers": lambda: self.known(trailers),
            "/chunked": self.chunked,
            "/until-close": self.until_close,
            "/interim": self.interim,
            "/large": lambda: self.known(b"large", b"X-Large: " + b"r" * 60 * 1024 + b"\r\n"),
        }[path]
        return answer()

    def chunks(self):
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        trailers = b""
        while (line := self.rfile.readline()) != b"\r\n":
            trailers += line
        return body, trailers

    def known(self, body, more=b""):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n" % (len(body), more) + body)
        return True

    def chunked(self):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n")
        for part in (b"one ", b"two ", b"three"):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            self.wfile.flush()
        self.wfile.write(b"0\r\nX-Sum: 3 parts\r\n\r\n")
        return True

    def until_close(self):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nthe end is the end")
        return False

    def unwanted(self):
        # A body that comes without being asked for comes within this time.
        came = select.select([self.connection], [], [], 1)[0] and self.connection.recv(1, socket.MSG_PEEK)
        self.wfile.write(b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n" % (b"500 Too Early" if came else b"413 Unwanted"))
        return False

    def interim(self):
        self.wfile.write(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n")
        return self.known(b"after the hints")


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    address_family = socket.AF_INET6


Server(("::", int(sys.argv[1])), Connection).serve_forever()
