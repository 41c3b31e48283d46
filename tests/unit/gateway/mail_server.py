"""A stand-in for a mail server: SMTP (RFC 5321) over a real socket on loopback, as much of it as a client needs."""

from __future__ import annotations

import ipaddress
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass
class MailServer:
    """The letters that came, and to whom. `refuses`: recipients that it does not take; `logins`: what AUTH brought."""

    port: int = 0
    letters: list[tuple[str, EmailMessage]] = field(default_factory=list)
    refuses: set[str] = field(default_factory=set)
    logins: list[str] = field(default_factory=list)


@contextmanager
def mail_server(certificate: Path | None = None) -> Iterator[MailServer]:
    """With a certificate every connection is TLS from its beginning."""
    known = MailServer()

    class Session(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            if certificate is None:
                self._serve()
                return
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            try:
                with context.wrap_socket(self.request, server_side=True) as safe:
                    self.rfile, self.wfile = safe.makefile("rb"), cast(Any, safe.makefile("wb", 0))
                    self._serve()
            except OSError:  # whoever does not trust the certificate hangs up
                return

        def _say(self, text: str) -> None:
            self.wfile.write(f"{text}\r\n".encode())

        def _serve(self) -> None:
            self._say("220 here")
            recipient = ""
            while line := self.rfile.readline():
                verb = line.split()[0].upper().decode() if line.split() else ""
                if verb == "EHLO":
                    self._say("250-here\r\n250 AUTH PLAIN")
                elif verb == "AUTH":
                    known.logins.append(line.split()[2].decode())
                    self._say("235 ok")
                elif verb == "RCPT":
                    recipient = line.decode().partition("<")[2].partition(">")[0]
                    self._say("550 nobody here" if recipient in known.refuses else "250 ok")
                elif verb == "DATA":
                    self._say("354 go on")
                    lines = list(iter(self.rfile.readline, b".\r\n"))
                    letter = message_from_bytes(b"".join(lines), policy=policy.default)
                    known.letters.append((recipient, cast(EmailMessage, letter)))
                    self._say("250 taken")
                elif verb == "QUIT":
                    self._say("221 bye")
                    return
                else:
                    self._say("250 ok" if verb in ("MAIL", "RSET") else "502 what?")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Session) as server:
        server.daemon_threads = True
        known.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield known
        finally:
            server.shutdown()
            thread.join()


def certificate_of_loopback(folder: Path) -> Path:
    """A certificate for 127.0.0.1 that signs itself, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    file = folder / "mail.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return file
