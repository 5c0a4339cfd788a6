import smtplib
import ssl
import sys

host, port, tls = sys.argv[1:4]
with smtplib.SMTP(host, int(port), timeout=30) as server:
    server.ehlo()
    if tls == "starttls":
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        server.starttls(context=context)
        server.ehlo()
    body = "\r\n".join("line %d" % number for number in range(20000)) + "\r\n"
    server.sendmail("web@peers.test", ["orders@peers.test"], body)
