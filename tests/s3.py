"""A real S3 API, moto's server, with faults between it and its callers."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Response

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "somebody",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_MAX_ATTEMPTS": "1",  # botocore's own tries, for quick failures
}
Fault = Callable[[Response], Response]


class Silent(WSGIRequestHandler):
    def log(self, *arguments):
        pass


class S3:
    """`faults` happen to the next answers to GETs of a path with such an end; `seen` are all requests, with their ranges."""

    def __init__(self) -> None:
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._port = 0
        self.faults: dict[str, list[Fault]] = {}
        self.seen: list[tuple[str, str, str | None]] = []
        self.buckets: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def environment(self) -> dict[str, str]:
        return {**ENVIRONMENT, "AWS_ENDPOINT_URL": self.url}

    def __call__(self, environ, start_response):
        path, bytes_ = environ["PATH_INFO"], environ.get("HTTP_RANGE")
        self.seen.append((environ["REQUEST_METHOD"], path, bytes_))
        answer = Response.from_app(self._moto, environ, buffered=True)
        if environ["REQUEST_METHOD"] == "GET":
            for end, faults in self.faults.items():
                if path.endswith(end) and faults:
                    answer = faults.pop(0)(answer)
        return answer(environ, start_response)

    def start(self) -> None:
        """On the same port as before, if there was one."""
        self._server = make_server("127.0.0.1", self._port, self, threaded=True, request_handler=Silent)
        self._port = self._server.port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def bucket(self, name: str) -> str:
        """A new one; returns the URL of a repository in it."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port)
        connection.request("PUT", f"/{name}", headers={"Host": "s3.amazonaws.com"})
        assert connection.getresponse().status == 200
        connection.close()
        self.buckets.append(name)
        return f"s3://{name}/prod/models"

    def asked(self, end: str) -> list[str | None]:
        """The ranges in which a file was asked for."""
        return [bytes_ for method, path, bytes_ in self.seen if method == "GET" and path.endswith(end)]


@contextmanager
def running() -> Iterator[S3]:
    """The server, to which this process's own S3 clients talk too."""
    server = S3()
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        try:
            yield server
        finally:
            server.stop()


def kept(answer: Response) -> Response:
    return answer


def unavailable(answer: Response) -> Response:
    return Response("<Error><Code>InternalError</Code></Error>", 500, content_type="application/xml")


def cut(answer: Response) -> Response:
    """Half of the body; the head tells of all of it."""
    body = answer.get_data()
    broken = Response([body[: len(body) // 2]], answer.status, answer.headers)
    broken.headers["Content-Length"] = str(len(body))
    return broken


def altered(answer: Response) -> Response:
    headers = [(name, value) for name, value in answer.headers if not name.lower().startswith("x-amz-checksum")]
    return Response(bytes(255 - byte for byte in answer.get_data()), answer.status, headers)
