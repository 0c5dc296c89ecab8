"""The generator that asks a server: what it sends, what it takes, and each way it can end."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from drafters.block_diffusion import endpoint
from drafters.block_diffusion.endpoint import EndpointGenerator
from drafters.block_diffusion.responses import Query
from harness.errors import UserError
from harness.sampling import Sampling

STOP = 7
Answer = Callable[[dict[str, Any]], Any]


class Server:
    """Says what ``answer`` makes of a request; keeps the requests."""

    def __init__(self) -> None:
        self.answer: Answer = lambda body: choice([*body["prompt"], STOP], "stop")
        self.models: Any = {"data": [{"id": "tiny"}]}
        self.status = 200
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.busy = self.most_busy = 0
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.paths.append(self.path)
                self.say(200, outer.models)

            def do_POST(self) -> None:
                outer.paths.append(self.path)
                with outer.lock:
                    outer.busy += 1
                    outer.most_busy = max(outer.busy, outer.most_busy)
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.bodies.append(body)
                said = outer.answer(body)
                with outer.lock:
                    outer.busy -= 1
                self.say(outer.status, said)

            def say(self, status: int, value: Any) -> None:
                data = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                with contextlib.suppress(BrokenPipeError):  # it hung up on us
                    self.wfile.write(data)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


def choice(ids: list[int] | None, reason: str) -> dict[str, Any]:
    return {"choices": [{"text": "x", "token_ids": ids, "finish_reason": reason}]}


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def engine(url: str, **settings: Any) -> EndpointGenerator:
    return EndpointGenerator(url, 20, stop_ids=frozenset({STOP}), max_context=30, **settings)


def ask(server: Server, *prompts: list[int], **settings: Any) -> dict[int, list[int]]:
    queries = [Query(tuple(ids), seed) for seed, ids in enumerate(prompts)]
    return dict(engine(server.url, **settings).generate(queries))


def test_ids_go_out_and_come_back(server: Server) -> None:
    assert ask(server, [1, 2], [3]) == {0: [1, 2, STOP], 1: [3, STOP]}
    first = min(server.bodies, key=lambda body: -len(body["prompt"]))
    assert first == {
        "model": "tiny",
        "prompt": [1, 2],
        "max_tokens": 20,
        "temperature": 0.0,
        "top_p": 1.0,
        "top_k": -1,
        "repetition_penalty": 1.0,
        "stop_token_ids": [STOP],
        "return_token_ids": True,
    }
    assert server.paths[0] == "/v1/models" and set(server.paths[1:]) == {"/v1/completions"}


def test_an_address_may_end_in_v1(server: Server) -> None:
    engine(f"{server.url}/v1/")
    assert server.paths == ["/v1/models"]


def test_each_response_is_drawn_with_its_own_seed(server: Server) -> None:
    ask(server, [1], [2], sampling=Sampling(0.7, 0.9, 40))
    by_prompt = {body["prompt"][0]: body for body in server.bodies}
    assert {number: body["seed"] for number, body in by_prompt.items()} == {1: 0, 2: 1}
    assert [by_prompt[1][name] for name in ("temperature", "top_p", "top_k")] == [0.7, 0.9, 40]


def test_the_context_bounds_a_response(server: Server) -> None:
    server.answer = lambda body: choice([1] * body["max_tokens"], "length")
    found = ask(server, [1] * 25, [1] * 30, [1])
    assert {index: len(ids) for index, ids in found.items()} == {0: 5, 2: 20}


def test_some_requests_at_a_time(server: Server) -> None:
    def slow(body: dict[str, Any]) -> Any:
        time.sleep(0.02)
        return choice([STOP], "stop")

    server.answer = slow
    assert len(ask(server, *([i] for i in range(12)), batch_size=3)) == 12
    assert 1 < server.most_busy <= 3


@pytest.mark.parametrize(
    ("said", "status", "words"),
    [
        (choice(None, "stop"), 200, "without token ids .* vLLM"),
        (choice([1, 2], "stop"), 200, "another model, or leaves stop tokens out"),
        (choice([], "length"), 200, "another model"),
        ({"choices": []}, 200, "without token ids"),
        ({"error": "full"}, 503, r"refuses \(503"),
        (b"<html>", 200, "does not answer in JSON"),
        ([1], 200, "does not answer in JSON"),
    ],
)
def test_a_bad_answer_is_a_sentence(server: Server, said: Any, status: int, words: str) -> None:
    server.answer, server.status = (lambda body: said), status
    with pytest.raises(UserError, match=words):
        ask(server, [1])


@pytest.mark.parametrize("models", [{}, {"data": []}, {"data": [{}]}])
def test_a_server_without_a_model(server: Server, models: Any) -> None:
    server.models = models
    with pytest.raises(UserError, match="lists no model"):
        engine(server.url)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://", ""])
def test_no_address(url: str) -> None:
    with pytest.raises(UserError, match="is no address; write http://HOST:PORT"):
        engine(url)


def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UserError, match=r"cannot be reached .*; start the server"):
        engine(f"http://127.0.0.1:{port}")


def test_a_server_that_falls_silent(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(endpoint, "_TIMEOUT_S", 0.1)

    def wait(body: dict[str, Any]) -> Any:
        release.wait(10)
        return choice([STOP], "stop")

    server.answer = wait
    with pytest.raises(UserError, match="was silent for"):
        ask(server, [1])
    release.set()


def test_requests_under_way_end_with_the_one_that_failed(server: Server) -> None:
    """Else Python would wait minutes for them before it ends."""
    release = threading.Event()

    def answer(body: dict[str, Any]) -> Any:
        if body["prompt"] == [1]:
            return choice(None, "stop")
        release.wait(30)
        return choice([STOP], "stop")

    server.answer = answer
    before = {thread for thread in threading.enumerate() if "ThreadPool" in thread.name}
    with pytest.raises(UserError, match="without token ids"):
        ask(server, [2], [3], [1])
    for thread in set(threading.enumerate()) - before:
        if "ThreadPool" in thread.name:
            thread.join(5)
            assert not thread.is_alive()
    release.set()
