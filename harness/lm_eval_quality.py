"""Quality through lm-evaluation-harness: every method on the same prompts, greedy.

Each method has a directory of lm-eval's own result and sample files. A directory that was cut off
goes on: answers are kept one by one in lm-eval's cache.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drafters.build import check_drafter
from drafters.options import DrafterOptions
from harness import registry, template_date
from harness.config import QualityConfig
from harness.errors import UserError
from harness.model_args import BASELINE, ModelArgs
from harness.plan import load_tasks, resolve_device
from harness.progress import say
from harness.provenance import environment
from harness.reading import read_text
from harness.same_run import machine
from harness.score_records import CodeFacts
from harness.shards import place
from harness.typed_json import parse_json
from harness.whole_file import require_directory, write_json
from targets.base import TargetOptions
from targets.find import check_target
from tasks.base import PromptSet
from tasks.grading import grader_of

if TYPE_CHECKING:
    from targets.base import Target

TASKS = ("gsm8k", "humaneval", "mbpp")
"""Those with a file in ``lm_eval_tasks``."""

Texts = Mapping[str, str]
"""Prompt id to answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One method on one task."""

    method: str
    task: str
    source: str
    num_answers: int
    num_scored: int
    passed: float | None
    """Share of the scored; None where nothing was."""
    stderr: float | None
    """lm-eval's standard error of ``passed``."""
    num_identical: int
    """Answers that are ``ar_loop``'s, character for character."""


@dataclass(frozen=True, slots=True)
class Quality:
    """What was found, and where it is written."""

    directory: Path
    scores: tuple[Score, ...]


def require_lm_eval() -> None:
    """Raise a `UserError` where the package is missing."""
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("lm-eval is not installed; write pip install 'lm-eval>=0.4.13'.")


def evaluate(config: QualityConfig) -> Quality:
    """Let ``ar_loop`` and the drafters answer, score and compare.

    Raises:
        UserError: a name, file or package is missing, or code may not be run.
    """
    require_lm_eval()
    if place().size > 1:
        raise UserError("quality runs in one process; start it without a launcher.")
    options = TargetOptions(
        name=config.target,
        dtype=config.dtype,
        device=resolve_device(config.device),
        attn=config.attn,
        revision=config.revision,
    )
    check_target(options)
    if config.output_dir is not None:
        require_directory(config.output_dir)
    methods = _methods(config)
    prompts = _prompts(config)
    directory, options = _open(config, options, prompts)
    code = _code(config)
    from targets.load import load_target

    target = load_target(options)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    scores: list[Score] = []
    baseline: dict[str, Texts] = {}
    num_prompts = sum(len(chosen.prompts) for chosen in prompts.values())
    for method, text in methods.items():
        say(f"{method} answers {num_prompts} prompts")
        found = _evaluate(method, text, target, config, directory)
        for task, chosen in prompts.items():
            samples = found["samples"][f"harness_{task}"]
            texts = {sample["doc"]["prompt_id"]: sample["resps"][0][0] for sample in samples}
            first = baseline.setdefault(task, texts)
            metrics = found["results"][f"harness_{task}"]
            scores.append(
                Score(
                    method=method,
                    task=task,
                    source=chosen.source.kind,
                    num_answers=len(samples),
                    num_scored=sum("passed" in sample for sample in samples),
                    passed=_number(metrics.get("passed,none")),
                    stderr=_number(metrics.get("passed_stderr,none")),
                    num_identical=sum(first[key] == text for key, text in texts.items()),
                )
            )
        body = {"code": code and asdict(code), "scores": [asdict(score) for score in scores]}
        write_json(directory / "scores.json", body)
    return Quality(directory, tuple(scores))


def table(scores: Iterable[Score]) -> Iterator[str]:
    """Lines of a Markdown table, one row a task and method."""
    yield "| task | method | passed | stderr | scored | identical to ar_loop |"
    yield "| --- | --- | ---: | ---: | ---: | ---: |"
    for score in scores:
        task = score.task if score.source != "samples" else f"{score.task} (samples)"
        passed = "" if score.passed is None else f"{score.passed:.3f}"
        stderr = "" if score.stderr is None else f"{score.stderr:.3f}"
        same = f"{score.num_identical} of {score.num_answers}"
        yield f"| {task} | {score.method} | {passed} | {stderr} | {score.num_scored} | {same} |"


def _prompts(config: QualityConfig) -> dict[str, PromptSet]:
    for name in config.tasks:
        if name not in TASKS:
            raise UserError(f"no quality task {name!r}; {registry.near_misses(name, TASKS)}")
        grader = grader_of(registry.load("tasks", name))
        assert grader is not None
        if grader.runs_code and not config.confirm_run_unsafe_code:
            raise UserError(
                f"{name} runs the code that the model writes; allow it with "
                "--confirm-run-unsafe-code or leave the task out."
            )
    return load_tasks(config.tasks, config.data_dir, config.limit)


def _code(config: QualityConfig) -> CodeFacts | None:
    """What programs will run under, tried before anything slow; None where no task has any.

    Raises:
        UserError: no program can be run.
    """
    graders = [grader_of(registry.load("tasks", name)) for name in config.tasks]
    if not any(grader and grader.runs_code for grader in graders):
        return None
    from harness.lm_eval_docs import sandbox

    found = sandbox()
    if found.containment.lacking:
        names = ", ".join(name.replace("_", " ") for name in found.containment.lacking)
        say(f"programs in answers are NOT contained in: {names}")
    return CodeFacts.of(found)


def _methods(config: QualityConfig) -> dict[str, str]:
    """Methods by name, each as it was asked for; ``ar_loop`` first."""
    methods = {BASELINE: BASELINE}
    for text in config.drafter:
        options = DrafterOptions.parse(text)
        if options.method in methods:
            raise UserError(f"method {options.method!r} is asked for twice; label one: NAME@LABEL.")
        check_drafter(options, config.target)
        methods[options.method] = text
    return methods


def _open(
    config: QualityConfig, options: TargetOptions, prompts: Mapping[str, PromptSet]
) -> tuple[Path, TargetOptions]:
    """The directory, new or one to go on in, with ``settings.json``; and the date it began with."""
    started = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    directory = config.output_dir or Path("quality") / started
    path = directory / "settings.json"
    date = template_date.to_use(config.template_date, path if path.is_file() else None)
    options = replace(options, template_date=date)
    target = asdict(options)
    if date is None:  # as in directories from before there was one
        del target["template_date"]
    settings = {
        "target": target,
        "max_new_tokens": config.max_new_tokens,
        "block_size": config.block_size,
        "tasks": {
            name: {
                "source": chosen.source.facts(),
                "prompt_ids": [prompt.prompt_id for prompt in chosen.prompts],
            }
            for name, chosen in prompts.items()
        },
        "machine": machine(environment(())),
        "plugins": {path.name: sha256(path.read_bytes()).hexdigest() for path in config.plugin},
    }
    try:
        if path.is_file():
            if parse_json(read_text(path)) != json.loads(json.dumps(settings)):
                raise UserError(
                    f"{directory} holds an evaluation with other settings; give another "
                    "--output-dir."
                )
            return directory, options
        directory.mkdir(parents=True, exist_ok=True)
        write_json(path, settings)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be used: {error}.") from error
    return directory, options


def _evaluate(
    method: str, text: str, target: Target, config: QualityConfig, directory: Path
) -> dict[str, Any]:
    """lm-eval's results of one method, written as its own command line writes them."""
    import lm_eval
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import sanitize_model_name

    from harness.lm_eval_model import TASKS, HarnessModel

    arguments = ModelArgs(
        target=config.target, drafter=text, dtype=config.dtype, block_size=config.block_size
    )
    model = HarnessModel(target, arguments)
    tracker = EvaluationTracker(output_path=str(directory))
    data_dir = None if config.data_dir is None else str(config.data_dir)
    results: dict[str, Any] = lm_eval.simple_evaluate(
        model=model,
        # lm-eval's tracker names its directory after "model", without characters such as ":".
        model_args={"model": method, **asdict(arguments)},
        tasks=[f"harness_{task}" for task in config.tasks],
        limit=config.limit,
        gen_kwargs={"max_gen_toks": config.max_new_tokens},
        apply_chat_template=bool(model.tokenizer.chat_template),
        use_cache=str(directory / f"answers_{model.fingerprint}"),
        evaluation_tracker=tracker,
        task_manager=TaskManager(
            include_path=str(TASKS), include_defaults=False, metadata={"data_dir": data_dir}
        ),
        confirm_run_unsafe_code=config.confirm_run_unsafe_code,
    )
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    for task, rows in samples.items():
        tracker.save_results_samples(task_name=task, samples=rows)
    place = directory / sanitize_model_name(method)
    written = {path.name.partition("_")[0] for path in place.glob("*.json*")}
    if written != {"results", "samples"}:  # lm-eval only warns where it cannot write
        raise UserError(f"lm-eval's files of {method} cannot be written to {place}.")
    return {**results, "samples": samples}


def _number(value: Any) -> float | None:
    """A number that lm-eval gives as text or NaN where there is none."""
    return value if isinstance(value, float) and math.isfinite(value) else None
