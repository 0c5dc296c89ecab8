"""The hub is asked once and briefly; without it one sentence comes, not a minute of retries."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from huggingface_hub import constants

from harness import hub
from harness.cli import main


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub._answers.cache_clear()
    yield
    hub._answers.cache_clear()


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """A hub that takes connections and never says a word."""
    taken: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_take, args=(server, taken), daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(hub, "TIMEOUT_S", 0.2)
        yield taken


def _take(server: socket.socket, taken: list[object]) -> None:
    try:
        while True:
            taken.append(server.accept()[0])
    except OSError:
        return


def test_a_silent_hub_is_asked_once(silent: list[object]) -> None:
    assert not hub.is_reachable()
    assert not hub.is_reachable()
    assert len(silent) == 1


def test_offline_mode_asks_nobody(silent: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not hub.is_reachable()
    assert silent == []


@pytest.mark.parametrize(
    "flags",
    (
        ("--target", "qwen3-8b", "--drafter", "ngram"),
        ("--target", "nobody/no-such-model", "--drafter", "ngram"),
    ),
)
def test_a_run_without_a_hub_ends_in_one_sentence_at_once(
    silent: list[object], capsys: pytest.CaptureFixture[str], flags: tuple[str, ...]
) -> None:
    began = time.monotonic()
    assert main(["run", *flags, "--tasks", "gsm8k", "--limit", "1", "--device", "cpu"]) == 2
    assert time.monotonic() - began < 5
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: the hub cannot be reached") and "smollm2" in last
