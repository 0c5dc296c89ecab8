"""The losslessness audit of a run: every greedy answer re-scored by the target, on its own prefix.

The reference is the same target one dtype wider, with the library's attention. In a float64 one
norms and rotary angles stay in float32, as the library computes them; the products, where rounding
depends on how many rows go together, are float64.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from harness.audit import WIDER, deviations, wrong_end
from harness.audit_records import Audit, Deviation, ar_loop_of, make_audit, read_audits
from harness.conversations import prompt_sha256, turns
from harness.errors import FAILURES, UserError, one_line, raise_ctrl_c
from harness.findings import found_before
from harness.line_writers import AuditWriter
from harness.progress import Progress, say
from harness.records import Generation, RecordKey, key_of
from harness.reload import reload_run
from harness.run_facts import RunFacts
from harness.verdicts import stands
from targets.attention import GROUPED
from targets.base import LengthAware, Scorer, StepScorer, Target, TargetOptions
from targets.load import load_target
from tasks.base import PromptSet

AUDIT_ANEW = "remove the file to audit the run anew."
"""What to do where earlier audits cannot be read."""


class NotAudited(UserError):
    """This run's answers cannot be audited here; the run itself is none the worse."""


def audit_answers(
    options: TargetOptions,
    target: Target,
    tasks: Mapping[str, PromptSet],
    generations: Sequence[Generation],
    path: Path,
    *,
    max_new_tokens: int,
    exact: bool = False,
    after: Callable[[], float] | None = None,
) -> dict[RecordKey, Audit]:
    """Audit every answer at ``path`` that is not audited yet; all audits there are then.

    An answer that has no ``ar_loop`` answer beside it is left out.

    Args:
        options: what ``target`` was loaded with.
        target: the run's own, in its dtype.
        tasks: the run's prompts.
        generations: greedy answers.
        path: ``audit.jsonl``; appended to, one line an answer.
        max_new_tokens: the run's limit.
        exact: whether the run was in exact mode.
        after: seconds of what follows, for the lines on stderr.

    Raises:
        NotAudited: the target cannot score, its wider twin cannot be loaded, or memory ran out.
        UserError: prompts or tokens that do not belong together, or unreadable files.
    """
    found = found_before(path, lambda: read_audits(path, generations), "audit", AUDIT_ANEW)
    answers = {key_of(item): item for item in generations}
    left = [item for key, item in answers.items() if key not in found and ar_loop_of(item, answers)]
    if not left:
        return found
    own = scorer_of(target)
    wider = _load_wider(options, target)
    reference = scorer_of(wider)
    say(f"audit    {len(left)} answers against {WIDER[options.dtype]}")
    prompts = prompts_by_turn(target, tasks, answers)
    end_of = partial(
        wrong_end,
        stop_ids=target.stop_ids,
        max_new_tokens=max_new_tokens,
        max_context=target.max_context,
    )

    def expecting(prompt_ids: Sequence[int]) -> None:
        for model in (target, wider):
            expect_answer(model, prompt_ids, max_new_tokens)

    with AuditWriter(path) as writer, Progress(len(left), "audit", after=after) as progress:
        for item, differing in _rescored(own, reference, left, prompts, expecting):
            ar_loop = ar_loop_of(item, answers)
            assert ar_loop is not None
            audit = make_audit(
                item,
                ar_loop,
                differing,
                exact=exact,
                wrong_end=end_of(item),
                dtype=options.dtype,
            )
            writer.append(audit)
            found[key_of(audit)] = audit
            progress.step(f"{audit.method} {audit.task}")
    return found


def verify_run(
    config: RunFacts,
    generations: Sequence[Generation],
    path: Path,
    data_dir: Path | None,
) -> dict[RecordKey, Audit]:
    """Audit a greedy run from its directory alone: target and prompts are loaded again.

    Raises:
        UserError: as `harness.reload.reload_run` and `audit_answers`.
    """
    again = reload_run(config, data_dir)
    return audit_answers(
        again.options,
        again.target,
        again.tasks,
        generations,
        path,
        max_new_tokens=config["max_new_tokens"],
        exact=bool(config["target"].get("exact_rows")),
    )


def _load_wider(options: TargetOptions, own: Target) -> Target:
    """``own`` one dtype wider, with no attention of ours; where it computes in that dtype."""
    attn = own.describe().get("attn")
    attn = "sdpa" if attn in (None, GROUPED) else attn
    try:
        return load_target(dataclasses.replace(options, dtype=WIDER[options.dtype], attn=attn))
    except UserError as error:
        raise NotAudited(
            f"not audited: the reference, {options.name} in {WIDER[options.dtype]}, cannot be "
            f"loaded ({str(error).rstrip('.')}); call harness verify where it can be."
        ) from error


def scorer_of(target: Target) -> Scorer:
    """The target as what scores its answers.

    Raises:
        NotAudited: it cannot.
    """
    if isinstance(target, Scorer):
        return target
    raise NotAudited(f"not audited: target {target.name} has no `score`; give it that method.")


def expect_answer(target: Target, prompt_ids: Sequence[int], max_new_tokens: int) -> None:
    """Let ``target`` compute what follows as it did when it answered this prompt."""
    if isinstance(target, LengthAware):
        room = target.max_context - len(prompt_ids)
        target.expect(len(prompt_ids) + min(max_new_tokens, room))


def prompts_by_turn(
    target: Target, tasks: Mapping[str, PromptSet], answers: Mapping[RecordKey, Generation]
) -> dict[tuple[str, str, int], list[int]]:
    """Prompt ids by task, prompt and turn, as far as the answers go."""
    return {
        (task, prompt.prompt_id, turn): prompt_ids
        for task, chosen in tasks.items()
        for prompt in chosen.prompts
        for turn, prompt_ids in turns(target, task, prompt, answers)
    }


def prompt_of(
    answer: Generation, prompts: Mapping[tuple[str, str, int], Sequence[int]]
) -> Sequence[int]:
    """The ids that ``answer`` answers.

    Raises:
        UserError: they are not among ``prompts``, or not the same.
    """
    place = answer.task, answer.prompt_id, answer.turn
    prompt_ids = prompts.get(place)
    if prompt_ids is None or prompt_sha256(prompt_ids) != answer.prompt_sha256:
        raise UserError(
            f"the prompt of {place[0]} {place[1]}, turn {place[2]}, is not the one that was "
            "answered (prompt_sha256 differs); use the run's data, template and plug-ins."
        )
    return prompt_ids


def _rescored(
    own: Scorer,
    reference: Scorer,
    left: Sequence[Generation],
    prompts: Mapping[tuple[str, str, int], Sequence[int]],
    expecting: Callable[[Sequence[int]], None],
) -> Iterator[tuple[Generation, list[Deviation]]]:
    """Answers with their deviations, prompt by prompt; equal tokens share one pass.

    ``expecting`` is told each prompt before its answers are scored.
    """
    by_prompt: dict[tuple[str, str, int], list[Generation]] = defaultdict(list)
    for item in left:
        by_prompt[item.task, item.prompt_id, item.turn].append(item)
    for items in by_prompt.values():
        scored: dict[tuple[int, ...], list[Deviation]] = {}
        for item in items:
            prompt_ids = prompt_of(item, prompts)
            if item.new_tokens not in scored:
                expecting(prompt_ids)
                scored[item.new_tokens] = _score(own, reference, prompt_ids, item)
            yield item, scored[item.new_tokens]


@contextlib.contextmanager
def sentences(place: str) -> Iterator[None]:
    """What scoring one answer may raise, as a sentence.

    Raises:
        NotAudited: memory ran out.
        UserError: anything else: tokens or logits that cannot be, or a target from elsewhere.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise NotAudited(
            f"not audited from {place} on: memory ran out; call harness verify where there is more."
        ) from error
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{place} cannot be audited: {error}.") from error
    except FAILURES as error:  # a target from elsewhere
        raise_ctrl_c(error)
        raise UserError(f"{place} cannot be audited: {one_line(error)}.") from error


def rows_of(
    answer: Sequence[int], chunks: Iterable[torch.Tensor]
) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
    """Chunks of logits ``[rows, V]`` with their tokens ``[rows]`` and the first one's position.

    Raises:
        ValueError: the target has not all of the tokens, or not a row for each.
    """
    first = 0
    for logits in chunks:
        tokens = answer[first : first + logits.shape[0]]
        if len(tokens) < logits.shape[0] or not 0 <= min(tokens) <= max(tokens) < logits.shape[1]:
            raise ValueError("it holds tokens that the target does not have")
        yield logits, torch.tensor(tokens, device=logits.device), first
        first += len(tokens)
    if first != len(answer):
        raise ValueError(f"the target scored {first} of its {len(answer)} tokens")


def place_of(answer: Generation) -> str:
    """An answer's name in a sentence."""
    return f"{answer.task} {answer.prompt_id}, turn {answer.turn}, {answer.method}"


def _score(
    own: Scorer, reference: Scorer, prompt_ids: Sequence[int], answer: Generation
) -> list[Deviation]:
    """Every place of one answer where the reference would have chosen another token."""
    tokens = answer.new_tokens
    with sentences(place_of(answer)):
        wide = reference.score(prompt_ids, tokens)
        found = _deviations(wide, own.score(prompt_ids, tokens), tokens)
        doubtful = any(not stands(item) for item in found)
        if doubtful and isinstance(own, StepScorer):
            found = _measured_again(own, reference, prompt_ids, tokens, found)
    return found


def _deviations(
    wide: Iterator[torch.Tensor], narrow: Iterator[torch.Tensor], new_tokens: Sequence[int]
) -> list[Deviation]:
    found: list[Deviation] = []
    for (reference, tokens, first), own in zip(rows_of(new_tokens, wide), narrow, strict=True):
        found += deviations(reference, own, tokens, first)
    return found


def _measured_again(
    own: StepScorer,
    reference: Scorer,
    prompt_ids: Sequence[int],
    new_tokens: Sequence[int],
    found: Sequence[Deviation],
) -> list[Deviation]:
    """``found`` with the noise of one-token passes where that is larger.

    A kernel rounds by its shape: one pass over a whole answer may happen to be nearer to the
    reference at a position than the passes that decoding is made of.
    """
    last = max(item.position for item in found if not stands(item))
    tokens = new_tokens[: last + 1]
    wide = (row[None] for rows in reference.score(prompt_ids, tokens) for row in rows)
    again = _deviations(wide, own.score_stepwise(prompt_ids, tokens), tokens)
    noise = {item.position: item.noise for item in again}
    return [
        dataclasses.replace(item, noise=max(item.noise, noise.get(item.position, 0.0)))
        for item in found
    ]
