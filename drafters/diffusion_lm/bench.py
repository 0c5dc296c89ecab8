"""What the training of a diffusion LM works with: responses, and a copy of the target to add to."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from drafters.block_diffusion.config import TrainConfig
from drafters.block_diffusion.corpus import ResponseSet, build_responses
from drafters.block_diffusion.data import training_order
from drafters.block_diffusion.head import label_log_prob
from drafters.block_diffusion.replicas import Replicas
from drafters.block_diffusion.shape import choose_mask_token
from drafters.block_diffusion.shared_head import as_read, head_rows
from drafters.block_diffusion.workbench import made_once, open_target, trained_target
from drafters.diffusion_lm.config import RANK, DiffusionConfig
from drafters.diffusion_lm.denoiser import private_decoder, require_two_way, two_way_outputs
from drafters.diffusion_lm.low_rank import attach
from drafters.diffusion_lm.masking import RANDOM_SHARE, Masking, View, pack
from targets.scales import measured_scales
from targets.transformers_lm import TransformersTarget

_ASKED = (
    *("responses", "steps", "seed", "batch_size", "micro_batch", "block_size", "learning_rate"),
    *("warmup_fraction", "max_grad_norm", "max_prompts", "max_new_tokens", "held_back", "dtype"),
    "revision",
)


@dataclass(frozen=True, slots=True)
class Bench:
    """What a training works with.

    Attributes:
        target: whose weights are added to.
        data: its responses.
        config: of the diffusion LM.
        decoder: a copy of the target's, with the additions.
        factors: of the additions, by key.
        masking: of the sequences.
        lm_head: ``[V, W]`` of `head_rows`, all tokens.
        replicas: the processes of this training.
    """

    target: TransformersTarget
    data: ResponseSet
    config: DiffusionConfig
    decoder: Any
    factors: dict[str, torch.nn.Parameter]
    masking: Masking
    lm_head: torch.Tensor
    replicas: Replicas

    def outputs(self, views: Sequence[View]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Outputs ``[M, W]`` where there is a label, labels ``[M]`` and weights ``[M]``."""
        packed = pack(views, self.target.device, shifted=self.config.shifted)
        hidden = two_way_outputs(self.decoder, packed.ids, packed.lengths)
        return as_read(hidden[packed.rows], self.lm_head), packed.labels, packed.weights

    def loss(self, views: Sequence[View]) -> torch.Tensor:
        """Weighted cross-entropy, summed over the views."""
        hidden, labels, weights = self.outputs(views)
        log_p, _ = label_log_prob(hidden, self.lm_head, labels)
        return -(weights * log_p).sum()

    def order(self, config: TrainConfig) -> Iterator[list[int]]:
        """Sequences of every step."""
        return training_order(self.data.sequences, self.data.train, config.batch_size, config.seed)

    def settings(self, config: TrainConfig) -> dict[str, Any]:
        """What makes two trainings the same; part of ``training.json``."""
        data = self.data
        return {
            **{name: getattr(config, name) for name in _ASKED},
            "method": {
                "rank": self.config.rank,
                "shifted": self.config.shifted,
                "mask_token_id": self.config.mask_token_id,
                "random_share": RANDOM_SHARE,
            },
            "target": trained_target(self.target, config.target),
            "data": {
                "name": data.prompts.name,
                "sha256": data.digest,
                "num_sequences": len(data.train),
                "num_held_back": len(data.held_back),
            },
        }


def open_bench(config: TrainConfig) -> Bench:
    """Load the target, complete its responses, and put the additions to a copy of it.

    Raises:
        UserError: unusable data, or a target that cannot be loaded or trained for.
    """
    target, ring = open_target(config)
    data = made_once(ring, functools.partial(build_responses, config, target))
    shape = DiffusionConfig(
        hidden_size=target.hidden_size,
        num_target_layers=target.num_layers,
        vocab_size=target.vocab_size,
        mask_token_id=choose_mask_token(target, reads_prompts=True),
        shifted=True,  # the target speaks of the next token already
        block_size=config.block_size,
        rank=RANK,
    )
    decoder = private_decoder(target)
    require_two_way(decoder, target)
    return Bench(
        target,
        data,
        shape,
        decoder,
        attach(decoder, shape.rank, config.seed),
        Masking(
            mask_token_id=shape.mask_token_id,
            longest=shape.block_size - 1,
            stop_ids=target.stop_ids,
            max_context=target.max_context,
        ),
        head_rows(target, torch.arange(target.vocab_size), measured_scales(target)),
        Replicas(ring, target.device),
    )
