"""The audit of a run above temperature 0: every answer's tokens in the target's distribution."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from harness.auditor import NotAudited, prompt_of, prompts_by_turn, scorer_of, there_already
from harness.draws import Draws, read_draws, tokens_sha256
from harness.line_writers import AuditWriter
from harness.progress import Progress, say
from harness.records import Generation, RecordKey, key_of
from harness.reload import reload_run
from harness.sampling import Sampling
from targets.base import Scorer, Target
from tasks.base import PromptSet

_DIGITS = 7


def audit_draws(
    target: Target,
    tasks: Mapping[str, PromptSet],
    sampling: Sampling,
    generations: Sequence[Generation],
    path: Path,
) -> dict[RecordKey, Draws]:
    """Score every answer at ``path`` that is not scored yet; all that are then.

    Args:
        target: the run's own, in its dtype.
        tasks: the run's prompts.
        sampling: how the run drew its tokens.
        generations: its answers.
        path: ``draws.jsonl``; appended to, one line an answer.

    Raises:
        NotAudited: the target cannot score, or memory ran out.
        UserError: prompts or tokens that do not belong together, or unreadable files.
    """
    found = there_already(path, lambda: read_draws(path, generations))
    left = [item for item in generations if key_of(item) not in found]
    if not left:
        return found
    scorer = scorer_of(target)
    say(f"audit    the draws of {len(left)} answers")
    prompts = prompts_by_turn(target, tasks, {key_of(item): item for item in generations})
    with AuditWriter(path) as writer, Progress(len(left), "audit") as progress:
        for item in left:
            draws = _draws(scorer, prompt_of(item, prompts), item, sampling)
            writer.append(draws)
            found[key_of(draws)] = draws
            progress.step(f"{item.method} {item.task}")
    return found


def verify_draws(
    config: Mapping[str, Any],
    generations: Sequence[Generation],
    path: Path,
    data_dir: Path | None,
) -> dict[RecordKey, Draws]:
    """Audit a sampled run from its directory alone: target and prompts are loaded again.

    Raises:
        UserError: as `harness.reload.reload_run` and `audit_draws`.
    """
    again = reload_run(config, data_dir)
    sampling = Sampling(**config["sampling"])
    return audit_draws(again.target, again.tasks, sampling, generations, path)


def _draws(
    scorer: Scorer, prompt_ids: Sequence[int], answer: Generation, sampling: Sampling
) -> Draws:
    place = f"{answer.task} {answer.prompt_id}, turn {answer.turn}, {answer.method}"
    try:
        facts = list(_facts(scorer, prompt_ids, answer.new_tokens, sampling))
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise NotAudited(
            f"not audited from {place} on: memory ran out; call harness verify where there is more."
        ) from error
    above, given, top = (tuple(column) for column in zip(*facts, strict=True))
    return Draws(
        task=answer.task,
        prompt_id=answer.prompt_id,
        turn=answer.turn,
        method=answer.method,
        repeat=answer.repeat,
        tokens_sha256=tokens_sha256(answer),
        above=above,
        given=given,
        top=top,
    )


def _facts(
    scorer: Scorer, prompt_ids: Sequence[int], new_tokens: Sequence[int], sampling: Sampling
) -> Iterator[tuple[float, float, float]]:
    """``above``, ``given`` and ``top`` of every token."""
    first = 0
    for logits in scorer.score(prompt_ids, new_tokens):
        rows = torch.tensor(new_tokens[first : first + logits.shape[0]], device=logits.device)
        yield from zip(*(item.tolist() for item in standing(logits, rows, sampling)), strict=True)
        first += len(rows)


def standing(
    logits: torch.Tensor, tokens: torch.Tensor, sampling: Sampling
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where tokens stand in the distributions they were to be drawn from; see `Draws`.

    Args:
        logits: ``[rows, V]``.
        tokens: ``[rows]`` int64.
        sampling: not greedy.

    Returns:
        ``above``, ``given``, ``top``, each ``[rows]`` float64.
    """
    p = sampling.probs(logits).double()
    given = p.gather(1, tokens[:, None])
    ids = torch.arange(p.shape[1], device=p.device)
    before = (p > given) | ((p == given) & (ids < tokens[:, None]))
    above = torch.where(before, p, 0.0).sum(1)
    columns = above, given[:, 0], p.amax(1)
    return tuple(column.clamp(0, 1).round(decimals=_DIGITS) for column in columns)  # type: ignore[return-value]
