"""A trained student in the decoding loop, with the embedding and LM head of its target."""

from __future__ import annotations

import torch

from drafters.block_diffusion.checkpoint import check as require_checkpoint
from drafters.block_diffusion.checkpoint import find
from drafters.block_diffusion.draft_head import DraftHead, scaled
from drafters.draft_model import DraftModelDrafter, drafter_of
from drafters.options import DrafterOptions
from drafters.student.checkpoint import config_from_json, load
from drafters.student.network import Student
from harness.errors import UserError
from harness.kv_cache import KVCache
from targets.base import Target
from targets.packed import can_pack, pack_linear_layers
from targets.scales import measured_scales
from targets.transformers_lm import TransformersTarget


def check(options: DrafterOptions, target_name: str) -> None:
    """See `drafters.build.check_drafter`."""
    require_checkpoint(options.name, options.argument, target_name, config_from_json)


def build(target: Target, options: DrafterOptions) -> DraftModelDrafter:
    """The student of a checkpoint: the path or hub id given, or the one trained for ``target``.

    Raises:
        MissingCheckpoint: none was trained.
        UserError: the checkpoint is broken, or made for another target.
    """
    if not isinstance(target, TransformersTarget):
        raise UserError(f"target {target.name} shares no embedding and LM head with a drafter.")
    found = load(find(options.name, options.argument, target.name), target)
    vocabulary = found.vocabulary if options.draft_vocab == "trained" else None
    network = StudentNetwork(found.model, target, vocabulary)
    return drafter_of(network, target, options, found.describe())


class StudentNetwork:
    """A student between its target's embedding and head, as `drafters.draft_model.CausalNetwork`.

    With part of the vocabulary the head costs as much less as it has fewer rows; with all of it,
    it is most of a shallow student's pass.
    """

    def __init__(
        self, student: Student, target: TransformersTarget, vocabulary: torch.Tensor | None = None
    ) -> None:
        """Take the head's rows ``vocabulary`` ``[V']``, or all; the weights are laid out anew."""
        self.num_layers, self.max_context = len(student.layer_ids), target.max_context
        if can_pack(student):
            pack_linear_layers(student)
        self._student, self._embed = student, target.embed_tokens
        self._scales = measured_scales(target)
        self._head = DraftHead(target, vocabulary)
        self.vocabulary = self._head.vocabulary

    def logits(self, ids: torch.Tensor, cache: KVCache) -> torch.Tensor:
        """See `CausalNetwork`."""
        hidden = self._student.outputs(self._embed(ids)[None], cache)
        return scaled(self._head.logits(hidden[0, -1:]), self._scales)

    def token_ids(self, columns: torch.Tensor) -> torch.Tensor:
        """See `CausalNetwork`."""
        return self._head.token_ids(columns)

    def widen(self, q: torch.Tensor) -> torch.Tensor:
        """See `CausalNetwork`."""
        return self._head.widen(q)
