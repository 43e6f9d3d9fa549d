"""A real nginx on loopback that is as bad a server as it is told to be; for tests and for the drill.

    http://127.0.0.1:PORT/plain/     the files of a folder
                          slow/      at 1 MB/s
                          busy/      20 % of the requests are answered 503
                          later/     the same, and when to come again: in a second
                          cut/       20 % of the connections are closed without an answer
                          bad/       all three
                          limited/   more than 50 requests a second are answered 429
                          whole/     no range requests: 200 and everything
                          closed/    403
                          signed/    403 without ?signature=good
                          moved/     302 to plain/
    s3://plain/                      with AWS_ENDPOINT_URL=http://127.0.0.1:PORT: buckets are the kinds above
    https://localhost:PORT/plain/    with a certificate that nobody vouches for

`CuttingProxy` stands before a server and closes some connections in the middle of an answer.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from .ports import free_ports

CONFIGURATION = """
daemon off;
{user}
worker_processes 1;
pid {root}/nginx.pid;
error_log {root}/error.log;
events {{ worker_connections 512; }}
http {{
    log_format plain '$status $body_bytes_sent $request_method $request_uri';
    access_log {root}/access.log plain;
    client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fastcgi;
    uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
    split_clients "busy$request_id" $busy {{ 20% 1; * ""; }}
    split_clients "cut$request_id" $cut {{ 20% 1; * ""; }}
    limit_req_zone $binary_remote_addr zone=few:1m rate=50r/s;
    server {{
        listen 127.0.0.1:{port};
        listen 127.0.0.1:{tls_port} ssl;
        ssl_certificate {root}/certificate.pem;
        ssl_certificate_key {root}/key.pem;
        location /plain/ {{ alias {folder}/; }}
        location /slow/ {{ alias {folder}/; limit_rate 1m; }}
        location /busy/ {{ alias {folder}/; if ($busy) {{ return 503; }} }}
        location /later/ {{ alias {folder}/; if ($busy) {{ add_header Retry-After 1 always; return 503; }} }}
        location /cut/ {{ alias {folder}/; if ($cut) {{ return 444; }} }}
        location /bad/ {{ alias {folder}/; limit_rate 1m; if ($busy) {{ return 503; }} if ($cut) {{ return 444; }} }}
        location /limited/ {{ alias {folder}/; limit_req zone=few; limit_req_status 429; }}
        location /whole/ {{ alias {folder}/; max_ranges 0; }}
        location = /plain {{ alias {root}/listing.xml; default_type application/xml; }}
        location /closed/ {{ return 403; }}
        location /signed/ {{ alias {folder}/; if ($arg_signature != "good") {{ return 403; }} }}
        location /moved/ {{ rewrite ^/moved/(.*)$ /plain/$1 redirect; }}
    }}
}}
"""


def _listing(files: list[Path]) -> str:
    """What S3 says when a bucket is listed."""
    about = "<Key>{}</Key><Size>{}</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
    entries = "".join(f"<Contents>{about.format(file.name, file.stat().st_size)}</Contents>" for file in files)
    space = "http://s3.amazonaws.com/doc/2006-03-01/"
    return f'<ListBucketResult xmlns="{space}"><KeyCount>{len(files)}</KeyCount>{entries}</ListBucketResult>'


def missing() -> str:
    """What is not installed here; empty if everything is."""
    absent = [name for name in ("nginx", "openssl") if _binary(name) is None]
    return f"{' and '.join(absent)} not installed (Debian: apt-get install nginx-light openssl)" if absent else ""


def _binary(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")  # not on the path of everyone but root


class Nginx:
    """One server; its own files lie in `root`."""

    def __init__(self, root: Path, folder: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root, self.folder = root.resolve(), folder.resolve()
        self.port, self.tls_port = free_ports(2)
        self.process: subprocess.Popen[bytes] | None = None
        subprocess.run(
            [
                *(str(_binary("openssl")), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
                *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
                *("-keyout", str(root / "key.pem"), "-out", str(root / "certificate.pem")),
            ],
            check=True,
            capture_output=True,
        )
        user = "user root;" if os.geteuid() == 0 else ""  # else its workers could not enter a temporary folder
        text = CONFIGURATION.format(
            root=self.root, folder=self.folder, port=self.port, tls_port=self.tls_port, user=user
        )
        (root / "nginx.conf").write_text(text)
        (root / "listing.xml").write_text(_listing(sorted(self.folder.iterdir())))
        self.start()

    def start(self) -> None:
        """Start it, and wait until it listens."""
        command = [str(_binary("nginx")), "-p", str(self.root), "-c", str(self.root / "nginx.conf")]
        command += ["-e", str(self.root / "error.log")]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.02)
        self.stop()
        raise RuntimeError(f"nginx does not start: {(self.root / 'error.log').read_text()}")

    def stop(self) -> None:
        """End it at once, with all its connections."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
        self.process = None

    def url(self, kind: str, name: str = "", *, port: int = 0) -> str:
        """Address of a file under one of the kinds above."""
        return f"http://127.0.0.1:{port or self.port}/{kind}/{name}"

    def requests(self) -> list[tuple[int, int, str, str]]:
        """(status, bytes of the body, method, address) of each request answered so far."""
        time.sleep(0.05)  # the last one is written after its client has it
        lines = [line.split() for line in (self.root / "access.log").read_text().splitlines()]
        return [(int(status), int(size), method, where) for status, size, method, where in lines]

    def __enter__(self) -> Nginx:
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()


class CuttingProxy:
    """Passes connections on to a port, and closes a share of them after some bytes of an answer."""

    def __init__(self, port: int, *, share: float = 0.3, seed: int = 0) -> None:
        self.target, self.share, self.cuts = port, share, 0
        self._draw = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, socket.create_connection(("127.0.0.1", self.target)) as server:
            threading.Thread(target=_copy, args=(client, server), daemon=True).start()
            while piece := server.recv(1 << 16):
                if self._draw.random() < self.share:
                    client.sendall(piece[: len(piece) // 2])
                    self.cuts += 1
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(piece)

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(1 << 16):
            target.sendall(piece)
