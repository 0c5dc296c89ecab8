"""What ``harness data`` does: prompts in, a corpus directory out, resumable at every row."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drafters.block_diffusion.checkpoint import OWN
from drafters.block_diffusion.config import TrainConfig
from drafters.block_diffusion.contamination import KINDS, SHORTEST, Benchmarks, Hit
from drafters.block_diffusion.corpus_files import CorpusFiles, CorpusRow, RowWriter
from drafters.block_diffusion.corpus_rows import RowBuilder
from drafters.block_diffusion.prompt_sources import SourcedPrompt, Sources, gather
from drafters.block_diffusion.prompts import PromptRow, is_held_back, prompt_hash
from harness import provenance, template_date
from harness.data_config import DataConfig
from harness.interrupt import sigterm_as_ctrl_c
from harness.plan import load_tasks, resolve_device
from harness.progress import say
from harness.run_files import locked
from harness.whole_file import require_directory, write_text
from targets.base import TargetOptions
from targets.find import check_target
from targets.load import load_transformers_target
from targets.transformers_lm import TransformersTarget
from tasks.base import PromptSet


@dataclass(frozen=True, slots=True)
class _Clean:
    """Prompts that no task asks, in their stable order, and what became of the others."""

    prompts: list[SourcedPrompt]
    removed: list[tuple[SourcedPrompt, list[Hit]]]
    tasks: Mapping[str, PromptSet]
    ngram: int

    def facts(self) -> dict[str, Any]:
        """Counts by task and kind; a prompt that two tasks claim counts with both."""
        counts = Counter((hit.task, hit.kind) for _, hits in self.removed for hit in hits)
        return {
            "ngram": self.ngram,
            "shortest_inside": SHORTEST,
            "num_removed": len(self.removed),
            "tasks": {
                name: {
                    "source": chosen.source.facts(),
                    "num_removed": {kind: counts[name, kind] for kind in KINDS},
                }
                for name, chosen in self.tasks.items()
            },
        }

    def lines(self) -> Iterator[str]:
        """The same for a reader."""
        facts = self.facts()
        for name, task in facts["tasks"].items():
            kinds = ", ".join(f"{count} {kind}" for kind, count in task["num_removed"].items())
            yield f"task     {name}: {kinds} ({task['source']['num_rows']} prompts)"
        yield f"removed  {facts['num_removed']} prompts that tasks ask, {len(self.prompts)} left"


def build_data(config: DataConfig) -> dict[str, Any]:
    """Build the corpus, or go on with it; returns its manifest.

    Ctrl-C, SIGTERM and kill keep every row written; the same call goes on.

    Raises:
        UserError: prompts, tasks, target or directory that cannot be used, or a server that fails.
    """
    require_directory(config.output_dir)
    check_target(TargetOptions(name=config.target, revision=config.revision))
    sources = gather(config.prompts, config.licence)
    clean = _decontaminate(sources, config)
    for line in clean.lines():
        say(line)
    files = CorpusFiles(config.output_dir)
    began = files.config if files.has_rows and files.config.is_file() else None
    target = _load(config, template_date.to_use(config.template_date, began))
    files.begin()
    with locked(files.config, f"the corpus in {files.directory}"), sigterm_as_ctrl_c():
        files.settle(_asked(config, sources, clean, target))
        rows, torn = files.read_rows()
        if torn:
            say(f"cut off a torn last row ({torn} bytes)")
        builder = RowBuilder(config, clean.prompts, target, rows)
        missing, num_too_long = builder.missing()
        wanted = missing if config.generate else []
        if not wanted and (before := files.read_manifest()) is not None:
            return before
        files.manifest.unlink(missing_ok=True)
        hits = "".join(f"{_removal(prompt, hits)}\n" for prompt, hits in clean.removed)
        write_text(files.removed, hits)
        with RowWriter(files.rows) as writer:
            builder.add_given(writer)
            sitting = builder.generate(wanted, writer)
        left_out = {"num_left_out": len(missing) - len(wanted), "num_too_long": num_too_long}
        facts = _manifest(config, sources, clean, target, builder.ordered())
        return files.finish(builder.ordered(), {**facts, **left_out, "last_sitting": sitting})


def _load(config: DataConfig, date: str | None) -> TransformersTarget:
    # Where a server answers, its GPUs are full of the same weights.
    device = "cpu" if config.endpoint is not None else resolve_device(config.device)
    options = TargetOptions(
        name=config.target,
        dtype=config.dtype,
        device=device,
        revision=config.revision,
        template_date=date,
    )
    return load_transformers_target(options, "a corpus")


def _decontaminate(sources: Sources, config: DataConfig) -> _Clean:
    """Compare all prompts with all tasks, then take the first ``max_prompts`` that are left."""
    tasks = load_tasks(("all",), config.data_dir, None)
    for name, chosen in tasks.items():
        if not chosen.source.is_benchmark:
            say(
                f"WARNING  {name} is here only as {len(chosen.prompts)} samples of our own: its "
                "real prompts may be among the training prompts; name them with --data-dir."
            )
    pairs = [(prompt.prompt, prompt.reference) for prompt in sources.prompts]
    found = Benchmarks(tasks, config.ngram).find(pairs)
    left = [prompt for index, prompt in enumerate(sources.prompts) if index not in found]
    left.sort(key=lambda prompt: prompt_hash(prompt.prompt))
    removed = [(sources.prompts[index], hits) for index, hits in sorted(found.items())]
    return _Clean(left[: config.max_prompts], removed, tasks, config.ngram)


def _removal(prompt: SourcedPrompt, hits: Sequence[Hit]) -> str:
    """A line of ``removed.jsonl``: no text, so that the file itself spreads no benchmark."""
    return json.dumps(
        {
            "prompt_sha256": prompt_hash(prompt.prompt),
            "source": prompt.source,
            "hits": [dataclasses.asdict(hit) for hit in hits],
        }
    )


def _asked(
    config: DataConfig, sources: Sources, clean: _Clean, target: TransformersTarget
) -> dict[str, Any]:
    """All that the rows depend on."""
    facts = target.describe()
    same = ("model", "revision", "weights_sha256", "dtype", "template_sha256")
    dated = {"template_date": date} if (date := facts["template_date"]) is not None else {}
    prompts = "\n".join(prompt_hash(prompt.prompt) for prompt in clean.prompts)
    return {
        "target": {"name": config.target, **{name: facts[name] for name in same}, **dated},
        "prompts": {
            "files": [dataclasses.asdict(file) for file in sources.files],
            "num_prompts": len(clean.prompts),
            "sha256": hashlib.sha256(prompts.encode()).hexdigest(),
        },
        "licence": list(config.licence),
        "samples": config.samples,
        "max_new_tokens": config.max_new_tokens,
        "sampling": dataclasses.asdict(config.sampling),
    }


def _manifest(
    config: DataConfig,
    sources: Sources,
    clean: _Clean,
    target: TransformersTarget,
    rows: Sequence[CorpusRow],
) -> dict[str, Any]:
    commit, dirty = provenance.source_state(OWN.parent.parent)
    prompts = {row.prompt for row in rows}
    share = TrainConfig().held_back
    held = sum(is_held_back(PromptRow(prompt), share) for prompt in prompts)
    origins = Counter((row.source, row.licence) for row in rows)
    unknown = sum(count for (_, licence), count in origins.items() if licence is None)
    if unknown:
        say(f"WARNING  the licence of {unknown} of {len(rows)} rows is unknown; name it: --licence")
    return {
        **_asked(config, sources, clean, target),
        "num_read": dict(sources.num_read),
        "num_distinct": len(sources.prompts),
        "contamination": clean.facts(),
        "num_rows": len(rows),
        "num_prompts": len(prompts),
        "rows_by_source": [
            {"source": source, "licence": licence, "num_rows": count}
            for (source, licence), count in sorted(origins.items(), key=str)
        ],
        "num_response_tokens": sum(len(row.response_ids) for row in rows),
        "num_finished": sum(row.finished for row in rows),
        "num_with_reference": sum(row.reference_ids is not None for row in rows),
        "split": {
            "held_back": share,
            "num_train_prompts": len(prompts) - held,
            "num_held_back_prompts": held,
        },
        "commit": commit,
        "dirty": dirty,
        "versions": provenance.versions(),
        "hardware": provenance.hardware(),
    }
