"""A web server on this machine that does what servers do on a bad day."""

import os
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CONTENT = os.urandom(300_000)


class Server(ThreadingHTTPServer):
    """One file, at every address, served as its attributes say."""

    content = CONTENT
    tag: str | None = '"one"'
    changed: str | None = None
    ranges = True
    says_length = True
    answers: list[int | Callable[["Server"], int]] = []
    """For each request: the status to refuse it with, or after how many bytes to break off; afterwards all is well."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict[str, str]] = []
        self.answers = []

    def url(self, name: str = "stability.tar.gz") -> str:
        return f"http://127.0.0.1:{self.server_port}/data/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        server.asked.append({name.lower(): value for name, value in self.headers.items()} | {"path": self.path})
        if self.path.startswith("/redirect"):
            self.send_response(302)
            self.send_header("Location", self.path.replace("/redirect", ""))
            self.send_header("Content-Length", "0")
            return self.end_headers()
        answer = server.answers.pop(0) if server.answers else None
        answer = answer(server) if callable(answer) else answer
        if answer is not None and answer < 600:
            return self.send_error(answer)
        start, content = self._start(), server.content
        if start is not None and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(200 if start is None else 206)
        for name, value in (("ETag", server.tag), ("Last-Modified", server.changed)):
            if value:
                self.send_header(name, value)
        body = content[start or 0 :]
        if start is not None:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if server.says_length:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body[:answer])
        self.close_connection = True

    def _start(self) -> int | None:
        wanted = self.headers.get("Range", "")
        if not self.server.ranges or not wanted or self.headers.get("If-Range") not in (None, self.server.tag, self.server.changed):
            return None
        return int(wanted.removeprefix("bytes=").removesuffix("-"))

    def log_message(self, *_: Any) -> None:
        pass
