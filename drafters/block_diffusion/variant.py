"""One variant in training: its network, its optimiser, its objective."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from drafters.block_diffusion.data import Blocks
from drafters.block_diffusion.head import label_log_prob, label_log_prob_and_soft_ce
from drafters.block_diffusion.model import BlockDiffusionModel, DrafterConfig
from drafters.block_diffusion.objectives import (
    Loss,
    Objective,
    Reduce,
    identity,
    objective_loss,
)
from drafters.block_diffusion.snapshot import Training
from targets.transformers_lm import TransformersTarget

LOGGED = ("loss", "cross_entropy", "first_error", "chain_reward")
"""Parts of a `Loss` whose means stand in the history of a training."""


class DraftNetwork(Protocol):
    """What can be trained on blocks."""

    def drafts(
        self,
        blocks: Blocks,
        features: torch.Tensor,
        embedding: torch.Tensor,
        visible: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Outputs ``[N, K − 1, D]`` that predict the labels; see `BlockDiffusionModel.drafts`."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """All of them are trained."""


@dataclass(frozen=True, slots=True)
class SharedHead:
    """The target's frozen embedding, LM head and final norm, as the drafter uses them.

    Attributes:
        embedding: ``[V, D]``.
        lm_head: ``[V', D]``, the rows of the softmax in training.
        label_of: ``[V]`` int64, row in ``lm_head`` of each token, -1 for none.
        final_norm: ``[D]``, start value of the drafter's own last norm; None where the target's
            is not a plain weight.
    """

    embedding: torch.Tensor
    lm_head: torch.Tensor
    label_of: torch.Tensor
    final_norm: torch.Tensor | None

    @classmethod
    def of(cls, target: TransformersTarget, vocabulary: torch.Tensor) -> SharedHead:
        """Shared parts of ``target``; copied, so that they may take part in a backward pass.

        All are on the target's own device, whichever GPU of several they come from.
        """
        device = target.device
        label_of = torch.full((target.vocab_size,), -1, device=device)
        label_of[vocabulary.to(device)] = torch.arange(len(vocabulary), device=device)
        head = target.lm_head.weight.detach()
        norm = getattr(target.model.get_decoder(), "norm", None)
        weight = getattr(norm, "weight", None)
        return cls(
            target.embed_tokens.weight.detach().to(device, copy=True),
            head[vocabulary.to(head.device)].to(device),
            label_of,
            None if weight is None else weight.detach().to(device, copy=True),
        )


def block_loss(
    model: DraftNetwork,
    blocks: Blocks,
    features: torch.Tensor,
    head: SharedHead,
    objective: Objective,
    reduce: Reduce = identity,
    expected: torch.Tensor | None = None,
    visible: torch.Tensor | None = None,
) -> Loss:
    """Loss of some blocks; arguments as in `label_rows` and `objective_loss`.

    ``expected [T, D]`` is `head.expected_rows` of the target at every token, for objectives that
    distil; ``visible`` goes with a prefix_decay. The loss of a block begins behind its visible
    drafts, as if it were a block that begins there and ends where it ends.
    """
    assert (visible is None) == (objective.prefix_decay is None)
    hidden, labels, valid = label_rows(model, blocks, features, head, visible)
    blank = torch.zeros(valid.shape, dtype=torch.float32, device=valid.device)
    if hidden.dtype == torch.float64:
        blank = blank.double()
    soft_ce = None
    if expected is not None and objective.distill:
        teacher = expected[teacher_rows(blocks, visible)[valid]]
        values, soft, hits = label_log_prob_and_soft_ce(hidden, head.lm_head, labels, teacher)
        soft_ce = blank.masked_scatter(valid, soft)
    else:
        values, hits = label_log_prob(hidden, head.lm_head, labels)
    log_p = blank.masked_scatter(valid, values)
    correct = torch.zeros_like(valid).masked_scatter(valid, hits)
    return objective_loss(log_p, correct, valid, objective, reduce, soft_ce)


def teacher_rows(blocks: Blocks, visible: torch.Tensor | None = None) -> torch.Tensor:
    """``[N, K − 1]``: rows, of all sequences end to end, where the target predicts each label.

    The first is that of the first label behind the visible ones.
    """
    lengths = torch.tensor(blocks.lengths, device=blocks.anchors.device)
    first = lengths.cumsum(0) - lengths
    offsets = torch.arange(blocks.labels.shape[1], device=lengths.device)
    begins = blocks.anchors if visible is None else blocks.anchors + visible
    rows = (first[blocks.owner] + begins)[:, None] + offsets
    return rows.clamp_max(sum(blocks.lengths) - 1)


def label_rows(
    model: DraftNetwork,
    blocks: Blocks,
    features: torch.Tensor,
    head: SharedHead,
    visible: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The drafter's outputs where there is a label.

    Args:
        model: the drafter.
        blocks: anchors and labels, on the model's device; their K may differ from the model's.
        features: ``[T, F]`` in the model's dtype.
        head: the target's shared parts.
        visible: ``[N]`` int64, labels of each block that the drafter is shown; none by default.

    Returns:
        Outputs ``[M, D]`` and labels ``[M]`` (rows of ``head.lm_head``) of the valid offsets, and
        which of ``[N, K − 1]`` those are. Offsets count from the first label that is not shown;
        as many as are shown are missing at a block's end.
    """
    out = model.drafts(blocks, features, head.embedding, visible)
    labels = head.label_of[blocks.labels]
    valid = blocks.valid & (labels >= 0)
    if visible is not None:
        out, labels, valid = _behind(visible, out, labels, valid)
    return out[valid], labels[valid], valid


def _behind(
    visible: torch.Tensor, out: torch.Tensor, labels: torch.Tensor, valid: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The three, each block moved ``visible`` offsets to the front; the end is not valid."""
    depth = valid.shape[1]
    places = torch.arange(depth, device=visible.device) + visible[:, None]
    inside = places < depth
    places = places.clamp(max=depth - 1)
    out = out.gather(1, places[..., None].expand_as(out))
    return out, labels.gather(1, places), valid.gather(1, places) & inside


def initial_model(
    config: DrafterConfig, head: SharedHead, seed: int, dtype: torch.dtype
) -> BlockDiffusionModel:
    """Seeded random weights; the last norm starts as the target's, which fits the shared head."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BlockDiffusionModel(config)
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    # Small at first: the residual stream starts as the embedding.
                    parameter.data.mul_((2 * config.num_hidden_layers) ** -0.5)
    if head.final_norm is not None:
        model.norm.weight.data.copy_(head.final_norm)
    return model.to(device=head.embedding.device, dtype=dtype)


@torch.no_grad()
def start_from_target(
    model: BlockDiffusionModel, target: TransformersTarget, scale: torch.Tensor
) -> bool:
    """Copy the target's last layers, and let ``fc`` hand them the last feature they were fed.

    In 150 steps this brought the cross-entropy to 5.7 where random weights stood at 6.9. It needs
    layers that store what the drafter's store, as Llama and Qwen 3 do; else nothing is changed.

    Args:
        model: the drafter; reads features divided by ``scale``.
        target: the model to copy from.
        scale: ``[F]``, see `corpus.Corpus`.

    Returns:
        Whether the weights were copied.
    """
    layers = target.decoder_layers[-len(model.layers) :]
    pairs = [
        (own.state_dict(), its.state_dict()) for own, its in zip(model.layers, layers, strict=True)
    ]
    norms = ("self_attn.q_norm.weight", "self_attn.k_norm.weight")
    for own, its in pairs:
        needed = {name: value.shape for name, value in own.items() if name not in norms}
        if any(name not in its or its[name].shape != shape for name, shape in needed.items()):
            return False
    for own, its in pairs:
        for name, value in own.items():
            if name in its:
                value.copy_(its[name])
            else:  # A target without q/k norms: keep the magnitude its heads have.
                projection = its[name.replace("_norm", "_proj")].float()
                fed = projection * its["input_layernorm.weight"].float()
                value.fill_(float(fed.square().sum(1).mean().sqrt()))
    width = model.config.hidden_size
    model.fc.weight.zero_()
    model.fc.weight[:, -width:] = torch.diag(scale[-width:].to(model.fc.weight))
    model.hidden_norm.weight.copy_(pairs[0][1]["input_layernorm.weight"])
    return True


class Variant(Training):
    """The training of one objective."""

    def __init__(
        self,
        name: str,
        objective: Objective,
        model: DraftNetwork,
        initial_weights: str,
        learning_rate: float,
        snapshot: Path,
    ) -> None:
        super().__init__(model.parameters(), learning_rate, snapshot, LOGGED)
        self.name = name
        self.objective = objective
        self.model = model
        self.initial_weights = initial_weights
        self.start_from: dict[str, Any] | None = None
        """The checkpoint it went on from, for the record."""

    def export(self, scale: torch.Tensor) -> BlockDiffusionModel:
        """The drafter for raw features: the scale they were divided by moves into ``fc``."""
        assert isinstance(self.model, BlockDiffusionModel)
        model = BlockDiffusionModel(self.model.config).to(self.model.norm.weight)
        model.load_state_dict(self.model.state_dict())
        index = [name for name, _ in self.model.named_parameters()].index("fc.weight")
        master = self.optimizer.masters[index].detach()
        model.fc.weight.data.copy_(master / scale.to(master.device))
        return model
