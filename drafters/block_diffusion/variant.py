"""One variant in training: its network, its optimiser, its objective."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
from drafters.block_diffusion.shared_head import SharedHead, as_read, norm_weight
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

    ``expected [T, W]`` is `head.expected_rows` of the target at every token, for objectives that
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
        Outputs ``[M, W]`` as ``head.lm_head`` reads them and labels ``[M]`` (rows of it) of the
        valid offsets, and which of ``[N, K − 1]`` those are. Offsets count from the first label
        that is not shown; as many as are shown are missing at a block's end.
    """
    out = model.drafts(blocks, features, head.embedding, visible)
    labels = head.label_of[blocks.labels]
    valid = blocks.valid & (labels >= 0)
    if visible is not None:
        out, labels, valid = _behind(visible, out, labels, valid)
    return as_read(out[valid], head.lm_head), labels[valid], valid


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
    layers of the drafter's own kind, as Llama, Qwen 3 and Granite have; else nothing is changed. Of
    a wider MLP than the drafter's its strongest units are copied.

    Args:
        model: the drafter; reads features divided by ``scale``.
        target: the model to copy from.
        scale: ``[F]``, see `corpus.Corpus`.

    Returns:
        Whether the weights were copied.
    """
    if len(model.layers) > len(target.decoder_layers):
        return False
    layers = list(target.decoder_layers[-len(model.layers) :])
    if not all(_same_kind(own, its) for own, its in zip(model.layers, layers, strict=True)):
        return False
    # Granite adds a part of what a sublayer makes; the drafter adds all of it.
    share = getattr(target.text_config, "residual_multiplier", 1.0)
    for own, its in zip(model.layers, layers, strict=True):
        _copy_layer(own, _fitting(own, its), share)
    width = model.config.hidden_size
    model.fc.weight.zero_()
    model.fc.weight[:, -width:] = torch.diag(scale[-width:].to(model.fc.weight))
    model.hidden_norm.weight.copy_(layers[0].state_dict()["input_layernorm.weight"])
    return True


_ADDED_NORMS = ("self_attn.q_norm.weight", "self_attn.k_norm.weight")
"""Of the drafter's layers; many targets have none."""


def _same_kind(own: nn.Module, its: nn.Module) -> bool:
    """Whether the target's layer stores what the drafter's does, and but for biases nothing else.

    More norms (Gemma) or norms that store something else make other sums of the same names.
    """
    kept, found = own.state_dict(), _fitting(own, its)
    needed = {name: value.shape for name, value in kept.items() if name not in _ADDED_NORMS}
    if any(name not in found or found[name].shape != shape for name, shape in needed.items()):
        return False
    more = {name for name in found if not name.endswith(".bias")} - set(kept)
    norm = its.get_submodule("input_layernorm")
    return not more and norm_weight(norm).equal(found["input_layernorm.weight"])


def _fitting(own: nn.Module, its: nn.Module) -> dict[str, torch.Tensor]:
    """The target layer's weights, with as many units of its MLP as the drafter's layer has.

    Those are kept that can add most: by the norms of what a unit reads and writes.
    """
    found: dict[str, torch.Tensor] = dict(its.state_dict())
    names = [f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")]
    if any(name not in found for name in names):
        return found
    gate, up, down = (found[name] for name in names)
    width = own.state_dict()[names[0]].shape[0]
    if not width < gate.shape[0] == up.shape[0] == down.shape[-1]:
        return found
    norms = [part.float().norm(dim=axis) for part, axis in ((gate, 1), (up, 1), (down, 0))]
    strength = norms[0] * norms[1] * norms[2]
    kept = strength.topk(width).indices.sort().values
    return found | dict(zip(names, (gate[kept], up[kept], down[:, kept]), strict=True))


def _copy_layer(own: nn.Module, found: Mapping[str, torch.Tensor], share: float) -> None:
    for name, value in own.state_dict().items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            value.copy_(found[name] * share)
        elif name in found and value.shape == found[name].shape:
            value.copy_(found[name])
        else:  # A target without such q/k norms: keep the magnitude its heads have.
            projection = found[name.replace("_norm", "_proj")].float()
            fed = projection * found["input_layernorm.weight"].float()
            value.fill_(float(fed.square().sum(1).mean().sqrt()))


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
