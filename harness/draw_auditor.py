"""The audit of a run above temperature 0: every answer's tokens in the target's distribution."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from harness.auditor import (
    AUDIT_ANEW,
    expect_answer,
    place_of,
    prompt_of,
    prompts_by_turn,
    rows_of,
    scorer_of,
    sentences,
)
from harness.draws import Draws, read_draws
from harness.errors import UserError
from harness.findings import found_before, tokens_sha256
from harness.line_writers import AuditWriter
from harness.progress import Progress, say
from harness.records import Generation, RecordKey, key_of
from harness.reload import reload_run
from harness.run_facts import RunFacts
from harness.sampling import Sampling
from targets.base import Scorer, Target
from tasks.base import PromptSet

_DIGITS = 7
_EDGE = 0.7
"""A token left out is at the edge if it has this share of the least probability that is kept: the
bfloat16 noise of two logits is below 0.1, and this is 0.36."""


def audit_draws(
    target: Target,
    tasks: Mapping[str, PromptSet],
    sampling: Sampling,
    generations: Sequence[Generation],
    path: Path,
    *,
    max_new_tokens: int,
    after: Callable[[], float] | None = None,
) -> dict[RecordKey, Draws]:
    """Score every answer at ``path`` that is not scored yet; all that are then.

    Args:
        target: the run's own, in its dtype.
        tasks: the run's prompts.
        sampling: how the run drew its tokens.
        generations: its answers.
        path: ``draws.jsonl``; appended to, one line an answer.
        max_new_tokens: the run's limit.
        after: seconds of what follows, for the lines on stderr.

    Raises:
        NotAudited: the target cannot score, or memory ran out.
        UserError: prompts or tokens that do not belong together, or unreadable files.
    """
    found = found_before(path, lambda: read_draws(path, generations), "audit", AUDIT_ANEW)
    left = [item for item in generations if key_of(item) not in found]
    if not left:
        return found
    scorer = scorer_of(target)
    say(f"audit    the draws of {len(left)} answers")
    prompts = prompts_by_turn(target, tasks, {key_of(item): item for item in generations})
    with AuditWriter(path) as writer, Progress(len(left), "audit", after=after) as progress:
        for item in left:
            prompt_ids = prompt_of(item, prompts)
            expect_answer(target, prompt_ids, max_new_tokens)
            draws = _draws(scorer, prompt_ids, item, sampling)
            writer.append(draws)
            found[key_of(draws)] = draws
            progress.step(f"{item.method} {item.task}")
    return found


def verify_draws(
    config: RunFacts,
    generations: Sequence[Generation],
    path: Path,
    data_dir: Path | None,
) -> dict[RecordKey, Draws]:
    """Audit a sampled run from its directory alone: target and prompts are loaded again.

    Raises:
        UserError: as `harness.reload.reload_run` and `audit_draws`.
    """
    again = reload_run(config, data_dir)
    rules = config["sampling"]
    try:
        sampling = Sampling(rules["temperature"], rules["top_p"], rules["top_k"])
    except ValueError as error:
        raise UserError(f"run {config['run_id']} was not sampled: {error}.") from error
    limit = config["max_new_tokens"]
    return audit_draws(again.target, again.tasks, sampling, generations, path, max_new_tokens=limit)


def _draws(
    scorer: Scorer, prompt_ids: Sequence[int], answer: Generation, sampling: Sampling
) -> Draws:
    columns: list[list[float]] = [[], [], [], []]
    with sentences(place_of(answer)):
        chunks = scorer.score(prompt_ids, answer.new_tokens)
        for logits, tokens, _ in rows_of(answer.new_tokens, chunks):
            for column, values in zip(columns, standing(logits, tokens, sampling), strict=True):
                column += values.tolist()
        above, given, top, edge = map(tuple, columns)
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
            num_edge=int(sum(edge)),
        )


def standing(
    logits: torch.Tensor, tokens: torch.Tensor, sampling: Sampling
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where tokens stand in the distributions they were to be drawn from; see `Draws`.

    Args:
        logits: ``[rows, V]``.
        tokens: ``[rows]`` int64.
        sampling: not greedy.

    Returns:
        ``above``, ``given``, ``top`` and whether the token is at the edge, each ``[rows]``.
    """
    p = sampling.probs(logits).double()
    given = p.gather(1, tokens[:, None])
    ids = torch.arange(p.shape[1], device=p.device)
    before = (p > given) | ((p == given) & (ids < tokens[:, None]))
    above = torch.where(before, p, 0.0).sum(1)
    whole = Sampling(sampling.temperature).probs(logits).double()
    least = torch.where(p > 0, whole, torch.inf).amin(1)
    edge = (given[:, 0] == 0) & (whole.gather(1, tokens[:, None])[:, 0] >= _EDGE * least)
    rounded = (item.clamp(0, 1).round(decimals=_DIGITS) for item in (above, given[:, 0], p.amax(1)))
    return (*rounded, edge)  # type: ignore[return-value]
