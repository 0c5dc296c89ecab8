"""The steps of a training, one after the other: stopped between two of them, gone on with there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from drafters.block_diffusion.replicas import Replicas
from drafters.block_diffusion.snapshot import Training
from harness.errors import UserError
from harness.interrupt import interrupt_deferred
from harness.progress import Progress


def run_steps(
    trainings: Sequence[Training],
    steps: int,
    save_every: int,
    replicas: Replicas,
    take: Callable[[int], object],
    summary: Callable[[], str],
) -> None:
    """Take every training to the last step; those behind catch up first.

    Args:
        trainings: resumed from their snapshots.
        steps: of the whole training.
        save_every: steps between snapshots, which the first process writes.
        replicas: the processes of this training.
        take: called with a 0-based step; takes it for the trainings that stand there.
        summary: a few words behind the bar.

    Raises:
        KeyboardInterrupt: asked to stop; the step was finished and saved first.
        UserError: the processes do not see the same snapshots.
    """
    found = replicas.ring.exchange([training.step for training in trainings])
    if any(told != found[0] for told in found):
        raise UserError(
            "the processes found different snapshots to go on from; HARNESS_CACHE_DIR must be a "
            "directory that all hosts share."
        )
    first = min((training.step for training in trainings), default=steps)
    if first == steps:
        return
    is_first = replicas.place.is_first
    bar = Progress(steps, "training", unit="step", first=first, shown=is_first)
    with bar, interrupt_deferred() as interrupted:
        for step in range(first, steps):
            take(step)
            bar.reach(step + 1, summary())
            # One process's signal is all processes': they must stop at the same step.
            stop = bool(replicas.sum(torch.tensor(float(interrupted()))))
            due = (step + 1) % save_every == 0 or step + 1 == steps
            if is_first and (stop or due):
                for training in trainings:
                    training.save()
            if stop:
                raise KeyboardInterrupt
