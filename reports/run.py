"""One run directory, read and checked; and which runs may be compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from harness.audit_records import Audit, read_audits
from harness.draws import Draws, read_draws
from harness.errors import UserError
from harness.reading import num_torn_bytes, read_text
from harness.records import Failure, Generation, Record, RecordKey, key_of
from harness.run_facts import EnvironmentFacts, MethodFacts, RunFacts
from harness.run_files import RunFiles, read_all
from harness.score_records import Scored, read_scored
from harness.stages import Stages, read_stages
from harness.study_files import is_study
from harness.typed_json import parse_json, typed

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a run directory holds."""

    config: RunFacts
    environment: EnvironmentFacts
    generations: tuple[Generation, ...]
    failures: tuple[Failure, ...]
    """Of keys that no later attempt made good."""
    torn: bool
    """Whether a last line that was cut off was left out."""
    stages: Stages | None
    """How long a round's parts took; None where that was not measured."""
    audits: Mapping[RecordKey, Audit]
    """Of the greedy generations that were audited."""
    draws: Mapping[RecordKey, Draws]
    """The same of sampled ones."""
    scored: Scored
    """Of the generations that were scored."""

    @property
    def run_id(self) -> str:
        """Name of the run."""
        return str(self.config["run_id"])

    @property
    def tasks(self) -> list[str]:
        """Task names in the order they ran."""
        return [str(task["task"]) for task in self.config["tasks"]]

    @property
    def sample_tasks(self) -> list[str]:
        """Tasks whose prompts are the project's samples, not the benchmark."""
        return [
            str(task["task"])
            for task in self.config["tasks"]
            if task["source"]["kind"] == "samples"
        ]

    @property
    def methods(self) -> list[MethodFacts]:
        """Descriptions of the methods, baselines included."""
        return list(self.config["methods"])

    @property
    def baselines(self) -> list[str]:
        """Names of the baselines."""
        return [str(item["method"]) for item in self.methods if item["kind"] == "baseline"]

    @property
    def num_conversations(self) -> int:
        """Conversations each method was asked to answer, repeats included."""
        prompts = sum(len(task["prompt_ids"]) for task in self.config["tasks"])
        return prompts * int(self.config["repeats"])

    def num_missing(self, method: str) -> int:
        """Conversations of which one method lacks a turn: the run is unfinished.

        Where ``config.json`` does not tell how many there are, any method's record, of any repeat,
        shows that there is a turn; the first there always is.
        """
        asked = (*self.generations, *self.failures)
        num_turns: dict[tuple[str, str], int] = {
            (task["task"], prompt_id): count
            for task in self.config["tasks"]
            for prompt_id, count in zip(task["prompt_ids"], task.get("num_turns", ()), strict=False)
        }
        for item in asked:
            place = item.task, item.prompt_id
            num_turns[place] = max(num_turns.get(place, 1), item.turn)
        found: dict[tuple[str, str, int], set[int]] = {}
        for item in asked:
            if item.method == method:
                found.setdefault((item.task, item.prompt_id, item.repeat), set()).add(item.turn)
        whole = sum(
            len(have) >= num_turns[task, prompt] for (task, prompt, _), have in found.items()
        )
        return self.num_conversations - whole

    def of(self, method: str, task: str | None = None) -> list[Generation]:
        """Generations of one method, of one task or all."""
        return [
            item for item in self.generations if item.method == method and task in (None, item.task)
        ]


def load_run(path: Path) -> Run:
    """Read a run directory; a last line that was cut off mid-write is left out and noted.

    Raises:
        UserError: a file is missing or unreadable, or the records do not belong to the config.
    """
    config = _read_object(path / "config.json", RunFacts)
    environment = _read_object(path / "environment.json", EnvironmentFacts)
    _refuse_repeated_names(path / "config.json", config)
    files = RunFiles(path)
    records_path = files.records
    known_methods = {item["method"] for item in config["methods"]}
    known_tasks = {item["task"] for item in config["tasks"]}
    records: dict[RecordKey, Record] = {}
    try:
        for record in read_all(files):
            if record.method not in known_methods or record.task not in known_tasks:
                raise ValueError(
                    f"{records_path} holds {record.method} on {record.task}, "
                    "which config.json does not list"
                )
            key = key_of(record)
            if isinstance(records.get(key), Generation):
                raise ValueError(f"{records_path} holds two generations for {key}")
            records[key] = record
        torn = any(num_torn_bytes(path) for path in (files.records, *files.parts))
    except OSError as error:
        raise UserError(_unreadable(records_path, error)) from error
    except ValueError as error:
        raise UserError(f"{error}; restore the file or measure again.") from error
    generations = tuple(item for item in records.values() if isinstance(item, Generation))
    return Run(
        config=config,
        environment=environment,
        generations=generations,
        failures=tuple(item for item in records.values() if isinstance(item, Failure)),
        torn=torn,
        stages=read_stages(path / "stages.json"),
        audits=_audited(read_audits, path / "audit.jsonl", generations),
        draws=_audited(read_draws, path / "draws.jsonl", generations),
        scored=read_scored(files, generations),
    )


def sort_out(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """The run directories among ``paths``, and a line on each that is none.

    So that ``runs/*`` may hold other things. What is not there at all was misspelt: it is kept for
    `load_run` to refuse, and so is a path that is alone.
    """
    if len(paths) < 2:
        return list(paths), []
    reasons = {path: _no_run(path) for path in paths}
    lines = [f"skipped {path}: {reason}." for path, reason in reasons.items() if reason]
    return [path for path in paths if not reasons[path]], lines


def _no_run(path: Path) -> str:
    """Why something that exists is no run; empty where it may be one."""
    if not path.exists():
        return ""
    if not path.is_dir():
        return "it is no directory"
    if is_study(path):
        return "it is a study, which is reported by itself"
    files = RunFiles(path)
    for needed in (files.config, files.environment, files.records):
        if not needed.is_file():
            return f"it is no run, for it has no {needed.name}"
    return ""


def comparable_groups(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that differ only in their drafters, together; in a stable order.

    Raises:
        UserError: two runs have one name.
    """
    groups: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.run_id):
        groups.setdefault(_group_key(run), []).append(run)
    names = [run.run_id for run in runs]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"run {name} was given more than once; name each directory once.")
    return [groups[key] for key in sorted(groups)]


def conditions(run: Run) -> dict[str, Any]:
    """Everything a number depends on besides drafter and prompts, by name."""
    target, hardware = run.config["target"], run.environment["hardware"]
    batch_sizes = sorted({item.batch_size for item in run.generations})
    return {
        "target": target.get("name"),
        "model": target.get("model"),
        "revision": target.get("revision"),
        "weights": target.get("weights_sha256"),
        "dtype": target.get("dtype"),
        "attention": target.get("attn"),
        "exact rows": target.get("exact_rows"),
        "device": target.get("device"),
        "chat template": target.get("template_sha256"),
        "thinking": target.get("enable_thinking"),
        "template date": target.get("template_date"),
        "temperature": run.config["sampling"]["temperature"],
        "top-p": run.config["sampling"]["top_p"],
        "top-k": run.config["sampling"]["top_k"],
        "max_new_tokens": run.config["max_new_tokens"],
        "GPU": hardware.get("gpu"),
        "CPU": hardware.get("cpu"),
        "threads": hardware.get("num_threads"),
        "batch size": ", ".join(map(str, batch_sizes)),
        "processes a host": ", ".join(map(str, processes_a_host(run))),
    }


def processes_a_host(run: Run) -> list[int]:
    """How many processes shared a host, ascending: a resumed run may have several numbers."""
    return sorted({item.num_processes for item in run.generations})


def group_facts(run: Run) -> dict[str, Any]:
    """All that runs of one table have in common, by name."""
    tasks = {str(task["task"]): task for task in run.config["tasks"]}
    return {
        **conditions(run),
        "cores": run.environment["hardware"].get("num_cores"),
        "tasks": list(tasks),
        **{f"data of {name}": task["source"] for name, task in tasks.items()},
        **{f"prompts of {name}": task["prompt_ids"] for name, task in tasks.items()},
        "baselines": sorted(run.baselines),
    }


def _group_key(run: Run) -> str:
    return json.dumps(group_facts(run), sort_keys=True)


def _audited(
    read: Callable[[Path, Sequence[Generation]], T], path: Path, generations: Sequence[Generation]
) -> T:
    try:
        return read(path, generations)
    except (OSError, ValueError) as error:
        raise UserError(f"{error}; remove the file and call harness verify on the run.") from error


def _read_object(path: Path, form: type[T]) -> T:
    try:
        body = parse_json(read_text(path))
    except OSError as error:
        raise UserError(_unreadable(path, error)) from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); restore it or measure again.") from error
    try:
        return typed(form, body)
    except ValueError as error:
        raise UserError(f"{path}: {error}; is it from a run of this harness?") from error


def _refuse_repeated_names(path: Path, config: RunFacts) -> None:
    lists = {
        "methods": [item["method"] for item in config["methods"]],
        "tasks": [item["task"] for item in config["tasks"]],
    }
    for part, names in lists.items():
        if len(set(names)) < len(names):
            raise UserError(f"{path} lists one of its {part} twice; restore it or measure again.")


def _unreadable(path: Path, error: OSError) -> str:
    return (
        f"{path} cannot be read ({error.strerror}); give a run directory, "
        "with config.json, environment.json and records.jsonl."
    )
