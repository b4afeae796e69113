"""A reverse proxy that does to HTTP what networks and broken servers do to it, by plan."""

import http.client
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

__all__ = [
    "Exchange",
    "Fault",
    "FaultyProxy",
    "answer",
    "break_off",
    "change_request",
    "change_response",
    "drip",
    "forget_to_answer",
    "hang",
    "hang_up",
    "page",
    "pass_on",
    "running_proxy",
    "without_header",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the server behind the proxy answered."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Exchange(BaseHTTPRequestHandler):
    """One request, and what is done with it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "FaultyProxy"

    def serve(self) -> None:
        """Do the next fault that is planned, or none."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.next_fault(self)(self, body)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = serve  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def forward(self, body: bytes, *, without: str = "") -> Reply:
        """Ask the server behind the proxy."""
        connection = http.client.HTTPConnection(*self.server.upstream, timeout=30)
        headers = {name: value for name, value in self.headers.items() if name.lower() != without}
        try:
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            return Reply(
                status=response.status, headers=response.getheaders(), body=response.read()
            )
        finally:
            connection.close()

    def reply(self, reply: Reply, *, only: int | None = None) -> None:
        """Send ``reply``, or its head and the first ``only`` bytes of its body."""
        self.server.note(self.command, self.path, reply.status)
        self.send_response_only(reply.status)
        skipped = {"transfer-encoding", "connection"}
        names = [name.lower() for name, _ in reply.headers]
        for name, value in reply.headers:
            if name.lower() not in skipped:
                self.send_header(name, value)
        if "content-length" not in names:
            self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body[:only])
        if only is not None:
            self.hang_up()

    def hang_up(self) -> None:
        """Close the connection after this exchange."""
        self.close_connection = True


Fault = Callable[[Exchange, bytes], None]


class FaultyProxy(ThreadingHTTPServer):
    """A proxy in front of ``upstream`` that does the ``planned`` faults, one a request.

    Attributes:
        planned: The faults to come.
        always: What is done when none is planned.
        requests: The method, path and headers of each request, in the order of their coming.
        answers: The method, path and status of each answer.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        parts = urlsplit(upstream)
        self.upstream = (parts.hostname or "", parts.port or 80)
        self.planned: deque[Fault] = deque()
        self.always: Fault = pass_on
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.answers: list[tuple[str, str, int]] = []
        self.closing = threading.Event()
        self._changed = threading.Condition()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def methods(self) -> list[str]:
        """The methods of the requests so far."""
        return [method for method, _, _ in self.requests]

    def plan(self, *faults: Fault) -> None:
        """Forget the requests so far, and do these faults to the next ones."""
        self.requests.clear()
        self.answers.clear()
        self.planned = deque(faults)

    def wait_for(self, count: int) -> None:
        """Return when so many requests have come."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.requests) >= count, timeout=30)

    def next_fault(self, exchange: Exchange) -> Fault:
        """Note a request and return what to do with it."""
        headers = {name.lower(): value for name, value in exchange.headers.items()}
        with self._changed:
            self.requests.append((exchange.command, exchange.path, headers))
            self._changed.notify_all()
            return self.planned.popleft() if self.planned else self.always

    def note(self, method: str, path: str, status: int) -> None:
        """Note an answer."""
        with self._changed:
            self.answers.append((method, path, status))

    def handle_error(self, *_: Any) -> None:
        """A client that has gone is what the test wanted."""


@contextmanager
def running_proxy(upstream: str) -> Iterator[FaultyProxy]:
    """Run a proxy in front of ``upstream`` in a thread."""
    with FaultyProxy(upstream) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield proxy
        finally:
            proxy.closing.set()
            proxy.shutdown()
            thread.join()


def pass_on(exchange: Exchange, body: bytes) -> None:
    """Do no harm."""
    exchange.reply(exchange.forward(body))


def answer(status: int, code: str = "", message: str = "said the proxy") -> Fault:
    """Answer as S3 does when it fails, without asking the server."""
    text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>" if code else ""
    headers = [("Content-Type", "application/xml")]
    reply = Reply(status=status, headers=headers, body=text.encode())
    return lambda exchange, _: exchange.reply(reply)


def page(status: int) -> Fault:
    """Answer with a web page, as a captive portal does."""
    headers = [("Content-Type", "text/html")]
    reply = Reply(status=status, headers=headers, body=b"<html><body>Welcome!<br></body>")
    return lambda exchange, _: exchange.reply(reply)


def hang_up(exchange: Exchange, _: bytes) -> None:
    """Close the connection; the server hears nothing of it."""
    exchange.hang_up()


def forget_to_answer(exchange: Exchange, body: bytes) -> None:
    """Let the server do what was asked, and close the connection without a word."""
    exchange.forward(body)
    exchange.hang_up()


def break_off(after: int) -> Fault:
    """Close the connection after that many bytes of the answer's body."""
    return lambda exchange, body: exchange.reply(exchange.forward(body), only=after)


def hang(exchange: Exchange, _: bytes) -> None:
    """Say nothing for as long as the test runs."""
    exchange.server.closing.wait()
    exchange.hang_up()


def drip(exchange: Exchange, body: bytes) -> None:
    """Send one byte of the answer, and another after a while, and so on, until nobody listens."""
    reply = exchange.forward(body)
    exchange.reply(reply, only=0)
    for start in range(len(reply.body)):
        exchange.wfile.write(reply.body[start : start + 1])
        exchange.wfile.flush()
        time.sleep(0.01)


def change_request(exchange: Exchange, body: bytes) -> None:
    """Flip one bit on the way to the server."""
    exchange.reply(exchange.forward(_flipped(body)))


def change_response(exchange: Exchange, body: bytes) -> None:
    """Flip one bit on the way back."""
    reply = exchange.forward(body)
    exchange.reply(Reply(status=reply.status, headers=reply.headers, body=_flipped(reply.body)))


def without_header(name: str) -> Fault:
    """Pass on without one header, as to a server that ignores it."""
    return lambda exchange, body: exchange.reply(exchange.forward(body, without=name.lower()))


def _flipped(body: bytes) -> bytes:
    return bytes([body[0] ^ 1]) + body[1:] if body else body
