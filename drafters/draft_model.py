"""The classic baseline: a small autoregressive model drafts a chain, one token a pass.

Source: Leviathan et al., arXiv 2211.17192; Chen et al., arXiv 2302.01318.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import torch

from drafters.base import Proposal
from drafters.options import DrafterOptions
from harness.errors import UserError
from harness.kv_cache import KVCache
from harness.sampling import Sampling
from harness.verify import Verdict, best_tokens
from targets.base import Target, TargetOptions
from targets.find import check_target
from targets.load import load_transformers_target
from targets.transformers_lm import TransformersTarget

DEFAULT_BLOCK_SIZE = 5
"""γ = 4 draft tokens, as Chen et al. have it. Where each is accepted with probability α and costs c
passes of the target, a round gains (1 − α^(γ+1)) / ((1 − α)(1 + γc)) (Leviathan et al., Theorem
3.8): most at 3 to 6 for α from 0.6 to 0.8 and c = 0.1."""
_GROWTH = 512
"""Rows by which the cache grows."""


class CausalNetwork(Protocol):
    """What `DraftModelDrafter` decodes with: reads tokens, says what may come next."""

    num_layers: int
    """Of its cache."""
    max_context: int
    """Most tokens it reads."""
    vocabulary: torch.Tensor | None
    """``[V']`` tokens it can draft; None for all of the target's."""

    def logits(self, ids: torch.Tensor, cache: KVCache) -> torch.Tensor:
        """``[1, V']`` for the token that follows ``ids`` ``[n]``, which are read into ``cache``."""

    def token_ids(self, columns: torch.Tensor) -> torch.Tensor:
        """Tokens ``[n]`` of columns of the logits."""

    def widen(self, q: torch.Tensor) -> torch.Tensor:
        """Probabilities ``[n, V']`` over the target's whole vocabulary, ``[n, V]``."""


def check(options: DrafterOptions, target_name: str) -> None:
    """See `drafters.build.check_drafter`."""
    if options.argument is None:
        raise UserError(
            "draft_model needs a model: --drafter draft_model=PATH or draft_model=OWNER/NAME."
        )
    try:
        check_target(TargetOptions(name=options.argument))
    except UserError as error:
        raise UserError(f"draft model: {error}") from error


def build(target: Target, options: DrafterOptions) -> DraftModelDrafter:
    """A drafter around any causal language model with the target's tokenizer.

    Raises:
        UserError: no model was named, it cannot be loaded, or its tokens are others.
    """
    check(options, target.name)
    assert options.argument is not None
    wanted = TargetOptions(
        name=options.argument,
        dtype=str(target.dtype).removeprefix("torch."),
        device=str(target.device),
    )
    try:
        model = load_transformers_target(wanted, "drafting")
    except UserError as error:
        raise UserError(f"draft model: {error}") from error
    if _tokens(model) != _tokens(target):
        raise UserError(
            f"draft model {options.argument} does not have the tokenizer of target {target.name}, "
            "so its tokens are other words; choose a smaller model of the target's family."
        )
    facts = model.describe()
    checkpoint = {
        "path": options.argument,
        "revision": facts["revision"],
        "weights_sha256": facts["weights_sha256"],
        "num_parameters": facts["num_parameters"],
    }
    network = WholeModel(model, target.vocab_size)
    return drafter_of(network, target, options, checkpoint)


def drafter_of(
    network: CausalNetwork,
    target: Target,
    options: DrafterOptions,
    checkpoint: Mapping[str, Any] | None,
) -> DraftModelDrafter:
    """The drafter that decodes with ``network``, as ``options`` say.

    Raises:
        UserError: a block without room for a draft token.
    """
    block_size = options.block_size or DEFAULT_BLOCK_SIZE
    if block_size < 2:
        raise UserError(f"--block-size {block_size} leaves nothing to draft; give at least 2.")
    draft = options.draft or ("argmax" if options.greedy else "sample")
    return DraftModelDrafter(network, target.device, block_size, draft, checkpoint=checkpoint)


def _tokens(model: Target) -> Any:
    """Id of every token; where ids are all there is, how many."""
    tokenizer = getattr(model, "tokenizer", None)
    return model.vocab_size if tokenizer is None else tokenizer.get_vocab()


class WholeModel:
    """A causal language model with an embedding and a head of its own, as `CausalNetwork`.

    Models of one tokenizer may pad the head to other sizes. Rows that the target's lacks are left
    out before the softmax; those that it alone has get probability 0.
    """

    vocabulary: torch.Tensor | None = None

    def __init__(self, model: TransformersTarget, vocab_size: int) -> None:
        """``vocab_size`` is the target's. The model's weights are laid out for decoding."""
        model.prepare()
        self.num_layers, self.max_context = model.num_layers, model.max_context
        self._model = model.model
        self._last_token = model.embed_tokens.num_embeddings - 1
        self._vocab_size = vocab_size

    def logits(self, ids: torch.Tensor, cache: KVCache) -> torch.Tensor:
        """See `CausalNetwork`; a padding token of the target is read as the model's last one."""
        if self._last_token < self._vocab_size - 1:
            ids = ids.clamp(max=self._last_token)
        output = self._model(
            input_ids=ids[None], past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        logits: torch.Tensor = output.logits[0, :, : self._vocab_size]
        return logits

    def token_ids(self, columns: torch.Tensor) -> torch.Tensor:
        """Columns are tokens."""
        return columns

    def widen(self, q: torch.Tensor) -> torch.Tensor:
        """See `CausalNetwork`."""
        return torch.nn.functional.pad(q, (0, self._vocab_size - q.shape[1]))


class DraftModelDrafter:
    """See `drafters.base.Drafter`; proposes a chain of ``block_size − 1`` tokens.

    Between rounds its cache holds committed tokens only: rows of refused drafts are dropped, and
    committed tokens without a row (the prompt at first, later the last draft token of a chain that
    was accepted whole) are read together with the pending one. Draft tokens stay on the device.
    """

    feature_layers: tuple[int, ...] = ()

    def __init__(
        self,
        network: CausalNetwork,
        device: torch.device,
        block_size: int = DEFAULT_BLOCK_SIZE,
        draft: Literal["argmax", "sample"] = "argmax",
        *,
        checkpoint: Mapping[str, Any] | None = None,
    ) -> None:
        self.block_size: int | None = block_size
        self.max_nodes = block_size - 1
        self.draft: Literal["argmax", "sample"] = draft
        self.checkpoint = checkpoint
        vocabulary = network.vocabulary
        self.draft_vocab_size = None if vocabulary is None else len(vocabulary)
        self._network, self._device = network, device
        self._cache = KVCache(network.num_layers, _GROWTH)
        self.reset()

    def reset(self) -> None:
        """Forget the prompt; the buffers stay."""
        self._cache.rewind(0)
        self._num_before = 0
        self._sampling = Sampling()

    def start(
        self, prompt_ids: torch.Tensor, features: torch.Tensor | None, sampling: Sampling
    ) -> None:
        """Take the sampling; the prompt is read with the first pending token, in one pass."""
        self.reset()
        self._sampling = sampling
        self._generator = sampling.generator("draft", self._device)

    @torch.inference_mode()
    def propose(self, prefix_ids: Sequence[int], pending: int, budget: int) -> Proposal:
        """A pass a token; nothing where the model's context is full."""
        if self._cache.length > len(prefix_ids):
            raise ValueError(f"cache has {self._cache.length} rows for {len(prefix_ids)} tokens")
        self._num_before = len(prefix_ids)
        depth = min(self.max_nodes, budget, self._network.max_context - self._num_before)
        if depth < 1:
            return Proposal.chain(torch.empty(0, dtype=torch.int64, device=self._device))
        self._cache.reserve(-(-(self._num_before + depth) // _GROWTH) * _GROWTH)
        unread = torch.tensor([*prefix_ids[self._cache.length :], pending])
        ids = unread.to(self._device, non_blocking=True)
        tokens, rows = [], []
        for _ in range(depth):
            ids, q = self._draft(self._network.logits(ids, self._cache))
            tokens.append(ids)
            rows.append(q)
        drafted = [q for q in rows if q is not None]
        return Proposal.chain(torch.cat(tokens), torch.cat(drafted) if drafted else None)

    def observe(self, verdict: Verdict, features: torch.Tensor | None) -> None:
        """Keep the rows of the pending token and of the accepted ones that have been read."""
        committed = self._num_before + 1 + verdict.accepted
        self._cache.rewind(min(self._cache.length, committed))

    def _draft(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """A token ``[1]`` and, where it was sampled, what it was drawn from ``[1, V]``."""
        network = self._network
        if self.draft == "argmax":
            return network.token_ids(best_tokens(logits)), None
        q = self._sampling.probs(logits)
        # One of several exponential clocks of rates q rings first with probability q. This is how
        # torch.multinomial draws one of them, without its checks, which wait for the device.
        clocks = torch.empty_like(q).exponential_(generator=self._generator)
        return network.token_ids(best_tokens(q / clocks)), network.widen(q)
