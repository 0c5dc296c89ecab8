"""What all objectives, seeds and budgets of one corpus share: target, corpus, head, processes."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from drafters.block_diffusion.config import TrainConfig
from drafters.block_diffusion.corpus import Corpus, build_corpus
from drafters.block_diffusion.corpus_files import CorpusFiles
from drafters.block_diffusion.data import (
    Blocks,
    draw_anchors,
    make_blocks,
    training_order,
    visible_prefix,
)
from drafters.block_diffusion.objectives import Objective
from drafters.block_diffusion.replicas import Replicas
from drafters.block_diffusion.shape import drafter_config, require_shared_widths
from drafters.block_diffusion.shared_head import SharedHead
from harness import shards, template_date
from harness.errors import UserError
from harness.plan import resolve_device
from harness.shards import Ring
from harness.user_cache import user_cache
from harness.whole_file import write_text
from targets.base import TargetOptions
from targets.load import load_transformers_target
from targets.scales import Scales, measured_scales
from targets.transformers_lm import TransformersTarget


@dataclass(frozen=True, slots=True)
class Pass:
    """Some sequences of a step, end to end, on the device.

    Attributes:
        blocks: of all of them.
        features: ``[T, F]``, scaled.
        expected: ``[T, W]``, see `corpus.Corpus`; None where no objective distils.
        coins: ``[N]`` float64 in [0, 1), one a block: what visible prefixes are drawn by.
    """

    blocks: Blocks
    features: torch.Tensor
    expected: torch.Tensor | None
    coins: torch.Tensor

    def visible(self, objective: Objective) -> torch.Tensor | None:
        """``[N]`` drafts that each block shows; None where the objective shows none."""
        decay, depth = objective.prefix_decay, self.blocks.labels.shape[1]
        return None if decay is None else visible_prefix(self.coins, decay, depth)


@dataclass(frozen=True, slots=True)
class Workbench:
    """A loaded target with the data to train drafters for it."""

    target: TransformersTarget
    corpus: Corpus
    head: SharedHead
    replicas: Replicas

    @property
    def device(self) -> torch.device:
        """Where everything is but the layers of a target that other GPUs share."""
        return self.head.embedding.device

    def features(self, indices: Sequence[int]) -> torch.Tensor:
        """Features ``[T, F]`` in units of `Corpus.scale`: the optimiser sees dimensions alike."""
        dtype = self.head.embedding.dtype
        raw = self.corpus.features.packed(indices).to(self.device, dtype)
        return raw / self.corpus.scale.to(self.device, dtype)

    def _expected(self, indices: Sequence[int]) -> torch.Tensor | None:
        kept = self.corpus.expected
        return None if kept is None else kept.packed(indices).to(self.head.lm_head)

    def blocks(self, indices: Sequence[int], anchors: Sequence[Any], block_size: int) -> Blocks:
        """The blocks at ``anchors`` of each sequence, on the device."""
        sequences = [self.corpus.sequences[i] for i in indices]
        return make_blocks(sequences, anchors, block_size).to(self.device)

    def order(self, config: TrainConfig) -> Iterator[list[int]]:
        """Sequences of every step of a training, the same in all processes and for all variants."""
        return training_order(
            self.corpus.sequences, self.corpus.train, config.batch_size, config.seed
        )

    def passes(self, indices: Sequence[int], step: int, config: TrainConfig) -> list[Pass | None]:
        """This process's share of a step; None where others have a pass and it has none.

        Anchors and coins depend on seed, step and sequence only.
        """
        own = self.replicas.share(indices)
        largest = -(-len(indices) // self.replicas.place.size)
        size = config.micro_batch or largest
        found: list[Pass | None] = []
        for start in range(0, largest, size):
            chosen = own[start : start + size]
            if not chosen:
                found.append(None)
                continue
            draws = [np.random.default_rng([config.seed, step, i]) for i in chosen]
            anchors = [
                draw_anchors(self.corpus.sequences[i], config.num_anchors, rng)
                for i, rng in zip(chosen, draws, strict=True)
            ]
            # After the anchors, which are then the same whether coins are used or not.
            coins = np.concatenate(
                [rng.random(len(own)) for rng, own in zip(draws, anchors, strict=True)]
            )
            found.append(
                Pass(
                    self.blocks(chosen, anchors, config.block_size),
                    self.features(chosen),
                    self._expected(chosen),
                    torch.from_numpy(coins).to(self.device),
                )
            )
        return found

    def settings(self, config: TrainConfig) -> dict[str, Any]:
        """What two variants share when they are comparable; part of ``training.json``."""
        asked = dataclasses.asdict(config)
        for name in (
            *("drafter", "target", "data", "start_from", "output_dir"),
            *("device", "save_every", "features", "template_date"),
        ):
            del asked[name]
        corpus = self.corpus
        return {
            **asked,
            "target": trained_target(self.target, config.target),
            "data": {
                "name": corpus.prompts.name,
                "sha256": corpus.digest,
                "num_sequences": len(corpus.train),
                "num_held_back": len(corpus.held_back),
                "vocabulary": len(corpus.vocabulary),
                "vocabulary_coverage": round(corpus.coverage, 6),
            },
        }


def trained_target(target: TransformersTarget, name: str) -> dict[str, Any]:
    """What ``training.json`` says of the target; ``name`` is what it was asked for by."""
    facts = target.describe()
    told = {key: facts[key] for key in ("model", "revision", "weights_sha256")}
    dated = {"template_date": date} if (date := facts["template_date"]) is not None else {}
    return {"name": name, **told, **dated}


class Digested(Protocol):
    """Data that can be compared across processes."""

    @property
    def digest(self) -> str:
        """Of all token ids."""


Data = TypeVar("Data", bound=Digested)


def made_once(ring: Ring, make: Callable[[], Data]) -> Data:
    """What ``make`` returns; of several processes the first makes it, the others find it cached.

    Raises:
        UserError: as ``make``, or a process has other data than the first.
    """
    made = make() if ring.place.is_first else None
    first, *_ = ring.exchange(made.digest if made is not None else None)
    if made is None:
        made = make()
    if made.digest != first:
        raise UserError(
            f"process {ring.place.rank} has another corpus than process 0; start all with the same "
            "data and with HARNESS_CACHE_DIR on a directory that all hosts share."
        )
    return made


def training_date(config: TrainConfig, target: TransformersTarget) -> str | None:
    """What the template takes for today: the same for all trainings for one target.

    Else responses would be generated, and trainings begun, anew on every day. The date asked for
    comes first, then the corpus's; None, the clock, is an older corpus's.

    Raises:
        UserError: the corpus's configuration cannot be read.
    """
    if config.template_date is None and config.data is not None:
        files = CorpusFiles(config.data if config.data.is_dir() else config.data.parent)
        if (
            config.data in (files.directory, files.rows)
            and files.config.is_file()
            and files.has_rows
        ):
            return template_date.to_use(None, files.config)
    if config.template_date is not None:
        return config.template_date
    facts = f"{target.describe()['weights_sha256']} {target.describe()['template_sha256']}"
    name = hashlib.sha256(facts.encode()).hexdigest()[:24]
    path = user_cache() / "training" / f"date-{name}"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, template_date.today())
    return path.read_text(encoding="ascii")


def open_target(config: TrainConfig) -> tuple[TransformersTarget, Ring]:
    """The target that is trained for, and the processes of this training.

    Raises:
        UserError: it cannot be loaded or trained for.
    """
    device = resolve_device(config.device)
    ring = Ring(shards.place(), device)
    options = TargetOptions(
        name=config.target, dtype=config.dtype, device=device, revision=config.revision
    )
    target = load_transformers_target(options, "training")
    dates = ring.exchange(training_date(config, target) if ring.place.is_first else None)
    target.chat.date = None if dates[0] is None else template_date.parse(dates[0])
    measured_scales(target)  # damaged weights show before hours of work
    return target, ring


def open_workbench(
    config: TrainConfig, objectives: Iterable[Objective], layers: Sequence[int] | None = None
) -> Workbench:
    """Load the target and make the corpus; of several processes the first makes it for all.

    What is kept of the target is what ``objectives`` need, and the outputs of ``layers``: by
    default of those that a block-diffusion drafter reads.

    Raises:
        UserError: unusable data, or a target that cannot be loaded or trained for.
    """
    target, ring = open_target(config)
    require_shared_widths(target)
    if layers is None:  # what cannot be trained shows before hours of work
        layers = drafter_config(target, config, Scales()).target_layer_ids
    distill = any(objective.distill for objective in objectives)
    make = functools.partial(build_corpus, config, target, layers, distill=distill)
    corpus = made_once(ring, make)
    head = SharedHead.of(target, corpus.vocabulary)
    return Workbench(target, corpus, head, Replicas(ring, target.device))
