"""Responses from a serving engine: an OpenAI-compatible server that speaks token ids.

vLLM does: ``/v1/completions`` takes ids as ``prompt`` and, asked with ``return_token_ids``, gives
``token_ids`` with each choice. Text would have to be tokenised again, into other tokens.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any
from urllib.parse import urlsplit

from drafters.block_diffusion.responses import Query
from harness.errors import UserError
from harness.sampling import Sampling
from harness.typed_json import parse_json, typed

_TIMEOUT_S = 600.0
"""For one response, whatever the server has to do first."""
_NO_NEWS_S = 10.0
"""For the server's name of its model."""


class EndpointGenerator:
    """Continues prompts through a server, some at a time; see `responses.ResponseGenerator`."""

    def __init__(
        self,
        url: str,
        max_new_tokens: int,
        *,
        stop_ids: frozenset[int],
        max_context: int,
        sampling: Sampling | None = None,
        batch_size: int = 32,
    ) -> None:
        """Ask the server what it serves.

        Args:
            url: ``http://host:port``, with or without ``/v1``.
            max_new_tokens: of each response.
            stop_ids: of the target.
            max_context: of the target: prompt and response together.
            sampling: greedy if not given. Seeds come from the queries.
            batch_size: requests under way at once.

        Raises:
            UserError: no such server, or one that lists no model.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"--endpoint {url} is no address; write http://HOST:PORT.")
        self.url = url
        self._parts = parts
        self._path = parts.path.rstrip("/").removesuffix("/v1") + "/v1"
        self._max_new_tokens = max_new_tokens
        self._stop_ids = stop_ids
        self._max_context = max_context
        self._sampling = sampling or Sampling()
        self._batch_size = batch_size
        self._open: set[http.client.HTTPConnection] = set()
        self.model = self._first_model()

    def generate(self, queries: Sequence[Query]) -> Iterator[tuple[int, list[int]]]:
        """Yield the number of a query and its new tokens, as it finishes.

        Raises:
            UserError: the server refuses, falls silent, or answers without token ids.
        """
        waiting = iter([i for i, query in enumerate(queries) if self._limit(query) > 0])
        under_way: dict[Future[list[int]], int] = {}
        pool = ThreadPoolExecutor(self._batch_size)
        try:
            while True:
                while len(under_way) < self._batch_size:
                    if (index := next(waiting, None)) is None:
                        break
                    under_way[pool.submit(self._ask, queries[index])] = index
                if not under_way:
                    return
                for answered in wait(under_way, return_when=FIRST_COMPLETED).done:
                    yield under_way.pop(answered), answered.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            self._hang_up()

    def _limit(self, query: Query) -> int:
        return min(self._max_new_tokens, self._max_context - len(query.ids))

    def _ask(self, query: Query) -> list[int]:
        """One response."""
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": list(query.ids),
            "max_tokens": self._limit(query),
            "temperature": self._sampling.temperature,
            "top_p": self._sampling.top_p,
            "top_k": self._sampling.top_k or -1,  # a server's word for all
            "repetition_penalty": 1.0,  # or a model's own default would count
            "stop_token_ids": sorted(self._stop_ids),
            "return_token_ids": True,
        }
        if not self._sampling.greedy:
            body["seed"] = query.seed
        answer = self._call("POST", "/completions", _TIMEOUT_S, body)
        try:
            (choice,) = typed(list[dict[str, Any]], answer.get("choices"), "choices")
            ids = typed(list[int], choice.get("token_ids"), "token_ids")
            reason = choice.get("finish_reason")
        except ValueError as error:
            raise UserError(
                f"{self.url} answers without token ids ({error}); serve with vLLM 0.10.2 or later, "
                "or leave --endpoint out."
            ) from error
        if not ids or (reason == "stop" and ids[-1] not in self._stop_ids):
            raise UserError(
                f"{self.url} stopped without one of the target's stop tokens; it serves another "
                "model, or leaves stop tokens out."
            )
        return ids

    def _first_model(self) -> str:
        answer = self._call("GET", "/models", _NO_NEWS_S)
        try:
            served = typed(list[dict[str, Any]], answer.get("data"), "data")
            return typed(str, served[0].get("id"), "id")
        except (ValueError, IndexError) as error:
            raise UserError(f"{self.url} lists no model it serves ({error}).") from error

    def _call(
        self, method: str, path: str, timeout_s: float, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        secure = self._parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(self._parts.hostname or "", self._parts.port, timeout=timeout_s)
        self._open.add(connection)
        with contextlib.closing(connection):
            try:
                text = None if body is None else json.dumps(body)
                connection.request(
                    method, self._path + path, text, {"Content-Type": "application/json"}
                )
                response = connection.getresponse()
                data = response.read().decode(errors="replace")
            except TimeoutError as error:
                raise UserError(
                    f"{self.url} was silent for {timeout_s:.0f} s; see what it does, then call "
                    "harness data again with the same flags."
                ) from error
            except (OSError, http.client.HTTPException) as error:
                raise UserError(
                    f"{self.url} cannot be reached ({error or type(error).__name__}); start the "
                    "server, or leave --endpoint out."
                ) from error
            finally:
                self._open.discard(connection)
        if response.status != 200:
            raise UserError(
                f"{self.url} refuses ({response.status} {response.reason}: {data[:200].strip()}); "
                "see the server's log."
            )
        try:
            return typed(dict[str, Any], parse_json(data), "the answer")
        except ValueError as error:
            raise UserError(f"{self.url} does not answer in JSON ({error}).") from error

    def _hang_up(self) -> None:
        """End what is under way: Python itself does not end before its threads do."""
        for connection in list(self._open):
            if connection.sock is not None:
                with contextlib.suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)
