"""A template that writes the date: one date a run, wherever and whenever it is read again."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_model import word_tokenizer, write_model, write_prompts

from drafters.block_diffusion.config import TrainConfig
from drafters.block_diffusion.corpus import build_responses
from drafters.block_diffusion.workbench import open_target
from harness import template_date
from harness.cli import main
from harness.config import QualityConfig
from harness.errors import UserError
from harness.lm_eval_quality import _open
from harness.records import Generation, read_records
from harness.study import Measure
from harness.study_answers import run_answers
from reports.run import load_run
from targets.base import TargetOptions
from targets.chat_template import ChatTemplate
from targets.load import load_target

DATED = (
    "{{ '<s> w' ~ (strftime_now('%d') | int) }}{% for message in messages %}"
    "{{ ' <' + message['role'] + '> ' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' <assistant> ' }}{% endif %}"
)
"""The day of the month is a word of the tiny tokenizer's."""
EAST, WEST = "Pacific/Kiritimati", "Pacific/Pago_Pago"
"""25 hours apart: never the same date."""
ASKED = ({"role": "user", "content": "w5"},)
DAY = datetime.date(2024, 2, 3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = write_model(tmp_path_factory.mktemp("model"))
    tokenizer = word_tokenizer()
    tokenizer.chat_template = DATED
    tokenizer.save_pretrained(place)
    return place


@pytest.fixture(autouse=True)
def fresh_cache(own_cache: Path) -> None:
    """Each test finds the cache empty."""


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Moves this process to another time zone."""

    def move(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield move
    monkeypatch.undo()
    time.tzset()


def run(model: Path, toy_plugin: Path, output_dir: Path, *more: str) -> int:
    return main(
        (
            *("run", "--target", str(model), "--tasks", "counting", "--plugin", str(toy_plugin)),
            *("--device", "cpu", "--dtype", "float32", "--drafter", "ngram"),
            *("--max-new-tokens", "6", "--output-dir", str(output_dir), *more),
        )
    )


def config_of(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "config.json").read_text())
    return found


def prompts_of(directory: Path) -> set[tuple[str, int, str]]:
    records = read_records(directory / "records.jsonl")
    return {
        (item.prompt_id, item.turn, item.prompt_sha256)
        for item in records
        if isinstance(item, Generation)
    }


def test_a_run_is_verified_and_finished_elsewhere(
    model: Path,
    toy_plugin: Path,
    tmp_path: Path,
    zone: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    zone(EAST)
    began = template_date.today()
    assert run(model, toy_plugin, tmp_path) == 0
    assert f"template writes the date: {began}" in capsys.readouterr().err
    (directory,) = (path.parent for path in tmp_path.glob("*/config.json"))
    assert config_of(directory)["target"]["template_date"] == began
    assert began in (directory / "leaderboard.md").read_text()
    whole = prompts_of(directory)

    zone(WEST)
    assert template_date.today() != began
    assert main(("verify", str(directory), "--plugin", str(toy_plugin))) == 0
    (directory / "audit.jsonl").unlink()
    assert main(("verify", str(directory), "--plugin", str(toy_plugin))) == 0
    lines = (directory / "records.jsonl").read_text().splitlines(keepends=True)
    (directory / "records.jsonl").write_text("".join(lines[:4]))
    (directory / "audit.jsonl").unlink()
    assert run(model, toy_plugin, tmp_path, "--resume", directory.name) == 0
    assert prompts_of(directory) == whole
    assert run(model, toy_plugin, tmp_path, "--resume", directory.name, "--template-date", str(DAY))
    assert "template_date" in capsys.readouterr().err


def test_runs_of_two_dates_are_told_apart_and_of_one_date_compared(
    model: Path,
    toy_plugin: Path,
    tmp_path: Path,
    zone: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    zone(EAST)
    date = template_date.today()
    assert run(model, toy_plugin, tmp_path / "a") == 0
    zone(WEST)
    assert run(model, toy_plugin, tmp_path / "b") == 0
    assert run(model, toy_plugin, tmp_path / "c", "--template-date", date) == 0
    a, b, c = (next((tmp_path / name).glob("*/config.json")).parent for name in "abc")
    capsys.readouterr()
    assert main(("compare", str(a), str(b))) == 2
    assert f"template date {date} in A" in capsys.readouterr().err
    assert main(("compare", str(a), str(c))) == 0
    assert prompts_of(a) == prompts_of(c) != prompts_of(b)


def test_a_run_from_before_there_was_a_date_is_read_by_the_clock(
    model: Path,
    toy_plugin: Path,
    tmp_path: Path,
    zone: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    zone(EAST)
    assert run(model, toy_plugin, tmp_path) == 0
    (directory,) = (path.parent for path in tmp_path.glob("*/config.json"))
    config = config_of(directory)
    del config["target"]["template_date"]
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "audit.jsonl").unlink()
    assert main(("verify", str(directory), "--plugin", str(toy_plugin))) == 0
    assert run(model, toy_plugin, tmp_path, "--resume", directory.name) == 0
    zone(WEST)
    (directory / "audit.jsonl").unlink()
    assert main(("verify", str(directory), "--plugin", str(toy_plugin))) == 2
    assert "prompt_sha256 differs" in capsys.readouterr().err


def test_without_a_date_in_the_template_none_is_recorded(
    toy_plugin: Path, tmp_path: Path, zone: Callable[[str], None]
) -> None:
    model = write_model(tmp_path / "model")
    for place in (EAST, WEST):
        zone(place)
        assert run(model, toy_plugin, tmp_path / place) == 0
    a, b = (next((tmp_path / place).glob("*/config.json")).parent for place in (EAST, WEST))
    assert config_of(a)["target"]["template_date"] is None
    assert "Template date" not in (a / "leaderboard.md").read_text()
    assert main(("compare", str(a), str(b))) == 0


def test_a_corpus_is_gone_on_with_and_trained_on_at_its_date(
    model: Path, tmp_path: Path, zone: Callable[[str], None]
) -> None:
    place = tmp_path / "corpus"
    command = (
        *("data", "--prompts", str(write_prompts(tmp_path / "prompts.jsonl", 8))),
        *("--target", str(model), "--output-dir", str(place), "--dtype", "float32"),
        *("--device", "cpu", "--max-new-tokens", "6"),
    )
    zone(EAST)
    date = template_date.today()
    assert main(command) == 0
    whole = (place / "corpus.jsonl").read_text()
    assert config_of(place)["target"]["template_date"] == date

    zone(WEST)
    (place / "corpus.json").unlink()
    (place / "corpus.jsonl").write_text("".join(whole.splitlines(keepends=True)[:3]))
    assert main(command) == 0
    assert (place / "corpus.jsonl").read_text() == whole
    for data in (place, place / "corpus.jsonl"):
        config = TrainConfig(target=str(model), data=data, dtype="float32", device="cpu")
        target, _ = open_target(config)
        day = int(date[-2:])
        for sequence in build_responses(config, target).sequences:
            assert word_tokenizer().convert_ids_to_tokens(sequence.ids[1]) == f"w{day}"


def test_trainings_for_one_target_have_one_date(
    model: Path, tmp_path: Path, zone: Callable[[str], None]
) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", 8)
    config = TrainConfig(
        target=str(model), data=prompts, dtype="float32", device="cpu", max_new_tokens=4
    )
    digests = []
    for place in (EAST, WEST):
        zone(place)
        target, _ = open_target(config)
        digests.append(build_responses(config, target).digest)
    assert digests[0] == digests[1]
    asked = TrainConfig(target=str(model), dtype="float32", device="cpu", template_date=str(DAY))
    assert open_target(asked)[0].describe()["template_date"] == str(DAY)


def test_every_directive_is_the_dates(model: Path) -> None:
    formats = ("%d %b %Y", "%Y-%m-%d", "%B %-d, %Y (%A)", "le %a %e, no. %j: %H:%M", "plain", "")
    template = "\n  {% if true %}<{% endif %}\n" + "|".join(
        "{{ strftime_now('" + text + "') }}" for text in formats
    )
    tokenizer = word_tokenizer()
    tokenizer.chat_template = template
    noon = datetime.datetime(2024, 2, 3, 12)
    wanted = "|".join(noon.strftime(text) for text in formats)
    assert ChatTemplate(tokenizer, date=DAY).render(ASKED) == "\n<" + wanted
    free, fixed = ChatTemplate(tokenizer), ChatTemplate(tokenizer, date=DAY)
    tokenizer.chat_template = "\n  {% if true %} a{% endif %}\n b {{ strftime_now('c') }}"
    assert free.render(ASKED) == fixed.render(ASKED)
    assert (free.written_date, fixed.written_date) == (None, "2024-02-03")


def test_a_date_that_is_none_is_a_sentence(model: Path, toy_plugin: Path, tmp_path: Path) -> None:
    for text in ("today", "2024-02-30", "03.02.2024", "20240203"):
        with pytest.raises(UserError, match="YYYY-MM-DD"):
            template_date.parse(text)
        assert run(model, toy_plugin, tmp_path, "--template-date", text) == 2


def test_templates_by_name_need_a_default(model: Path, tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    place = write_model(tmp_path)
    (place / "chat_template.jinja").unlink()
    for names, works in ((("plain", "tools"), False), (("default", "tools"), True)):
        tokenizer.chat_template = {name: DATED for name in names}
        tokenizer.save_pretrained(place)
        options = TargetOptions(name=str(place), dtype="float32", template_date=str(DAY))
        if works:
            target = load_target(options)
            ids = target.encode_chat(ASKED)
            assert tokenizer.convert_ids_to_tokens(ids) == [
                "<s>",
                "w3",
                "<user>",
                "w5",
                "<assistant>",
            ]
            assert target.describe()["template"] == "chat"
        else:
            with pytest.raises(UserError, match="plain, tools"):
                load_target(options)


def test_an_evaluation_goes_on_at_its_date(tmp_path: Path, zone: Callable[[str], None]) -> None:
    config, options = QualityConfig(output_dir=tmp_path), TargetOptions(name="smollm2")
    zone(EAST)
    date = template_date.today()
    assert _open(config, options, {}) == (tmp_path, replace(options, template_date=date))
    zone(WEST)
    assert _open(config, options, {}) == (tmp_path, replace(options, template_date=date))
    with pytest.raises(UserError, match="other settings"):
        _open(replace(config, template_date=str(DAY)), options, {})
    settings = json.loads((tmp_path / "settings.json").read_text())
    del settings["target"]["template_date"]  # as in one from before there was a date
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    assert _open(config, options, {}) == (tmp_path, options)


def test_a_study_replays_a_run_at_the_runs_date(
    model: Path, toy_plugin: Path, tmp_path: Path, zone: Callable[[str], None]
) -> None:
    zone(EAST)
    assert run(model, toy_plugin, tmp_path) == 0
    (directory,) = (path.parent for path in tmp_path.glob("*/config.json"))
    date = template_date.today()
    zone(WEST)
    options = TargetOptions(name=str(model), dtype="float32", template_date=template_date.today())
    bench: Any = SimpleNamespace(target=load_target(options))
    (found,) = run_answers(bench, TrainConfig(), Measure(), load_run(directory))
    assert len(found.sequences) == 5
    words = {word_tokenizer().convert_ids_to_tokens(item.ids[1]) for item in found.sequences}
    assert words == {f"w{int(date[-2:])}"}
    assert bench.target.describe()["template_date"] == options.template_date
