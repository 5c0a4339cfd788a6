# A small mail server: speaks first, takes STARTTLS, tells how many lines a mail had.
import socket
import socketserver
import ssl
import sys

port, certificate, key = sys.argv[1:4]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)


class Connection(socketserver.BaseRequestHandler):
    def handle(self):
        self.wire = self.request
        self.lines = self.wire.makefile("rb")
        self.say("220 mail.test ESMTP")
        how = "plain"
        while line := self.lines.readline():
            word = line.decode().strip().upper()
            if word.startswith("EHLO"):
                self.say("250-mail.test", "250-STARTTLS", "250 SMTPUTF8")
            elif word == "STARTTLS":
                self.say("220 go ahead")
                self.wire = context.wrap_socket(self.wire, server_side=True)
                self.lines = self.wire.makefile("rb")
                how = "starttls"
            elif word == "DATA":
                self.say("354 end with a dot")
                count = 0
                while self.lines.readline() != b".\r\n":
                    count += 1
                print(f"{how}: {count} lines")
                self.say("250 taken")
            elif word == "QUIT":
                self.say("221 bye")
                return
            else:
                self.say("250 ok")

    def say(self, *lines):
        self.wire.sendall("".join(line + "\r\n" for line in lines).encode())


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    address_family = socket.AF_INET6


Server(("::", int(port)), Connection).serve_forever()
