"""Any Hugging Face causal language model as a target."""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from drafters.base import Proposal
from harness.kv_cache import KVCache
from targets import attention
from targets.architecture import text_config
from targets.base import TargetOutput
from targets.chat_template import ChatTemplate
from targets.exact import TreeProposed
from targets.layer_outputs import LayerOutputs, decoder_layers
from targets.packed import can_pack, pack_linear_layers
from targets.rope import RopeLength

_EXACT_WIDTH = 16
"""Keys of an exact pass come in multiples of this, so that widths are few."""
_CHUNK = 2**24
"""Logits that `TransformersTarget.score` makes at a time; as many rows whatever the dtype."""


class TransformersTarget:
    """A causal language model with the harness's own KV cache; see `targets.base.Target`.

    Passes run in inference mode. Between passes the cache holds every committed token but the
    pending one.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        enable_thinking: bool = False,
        template_date: datetime.date | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Wrap a loaded model.

        Args:
            model: a ``PreTrainedModel`` with an LM head, in eval mode.
            tokenizer: its tokenizer, or None where only ids are used.
            name: what the run calls it.
            enable_thinking: handed to the chat template.
            template_date: what the chat template takes for today; None leaves it the clock.
            facts: what `describe` adds: model, revision, weights_sha256, ….
        """
        config = text_config(model.config)
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.facts: dict[str, Any] = dict(facts or {})
        self.text_config = config
        """Of the language model: a part of ``model.config`` in multimodal ones."""
        self.hidden_size: int = config.hidden_size
        self.num_layers: int = config.num_hidden_layers
        self.vocab_size: int = self.lm_head.weight.shape[0]
        self.max_context: int = getattr(config, "max_position_embeddings", None) or sys.maxsize
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        self.chat = ChatTemplate(tokenizer, enable_thinking=enable_thinking, date=template_date)
        self.stop_ids = _stop_ids(model, tokenizer)
        self._enable_thinking = enable_thinking
        self._num_parameters = sum(item.numel() for item in model.parameters())
        self._packs = can_pack(model)
        self._prepared = False
        self._decoder = model.get_decoder()
        self._layers = decoder_layers(self._decoder, self.num_layers)
        self._outputs = LayerOutputs(self._layers, self.device)
        self._rope = RopeLength(model)
        self._cache: KVCache | None = None
        self._past = 0
        self._most_tokens = self.max_context
        self.fixed_rows: int | None = None
        """Rows of every pass after the prefill; None outside of exact mode."""

    @property
    def embed_tokens(self) -> torch.nn.Embedding:
        """The frozen input embedding, for drafters that share it."""
        module: torch.nn.Embedding = self.model.get_input_embeddings()
        return module

    @property
    def lm_head(self) -> torch.nn.Linear:
        """The frozen LM head, for drafters that share it; it has a ``weight`` until `prepare`."""
        module: torch.nn.Linear = self.model.get_output_embeddings()
        return module

    @property
    def decoder_layers(self) -> torch.nn.ModuleList:
        """The decoder layers, in order."""
        return self._layers

    @property
    def attn(self) -> str:
        """The attention implementation in use."""
        return str(self.model.config._attn_implementation)

    def describe(self) -> Mapping[str, Any]:
        """JSON-ready facts; ``template`` is None where messages are joined as plain text."""
        template = getattr(self.tokenizer, "chat_template", None)
        text = template if isinstance(template, str) else json.dumps(template, sort_keys=True)
        return {
            "name": self.name,
            "model": None,
            "revision": None,
            "weights_sha256": None,
            "dtype": str(self.dtype).removeprefix("torch."),
            "attn": self.attn,
            "device": str(self.device),
            "template": "chat" if template else None,
            "template_sha256": hashlib.sha256(text.encode()).hexdigest() if template else None,
            "template_date": self.chat.written_date,
            "enable_thinking": self._enable_thinking,
            "num_parameters": self._num_parameters,
            "packed_weights": self._packs,
            "exact_rows": self.fixed_rows,
            **({} if self._rope.switch is None else {"rope_switch": self._rope.switch}),
            **self.facts,
        }

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Ids of a conversation; without a chat template the texts are joined by blank lines."""
        return self.chat.encode(messages)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids``, special tokens left out."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def decode_whole(self, ids: Sequence[int]) -> str:
        """Text of ``ids``, special tokens written out: what stop strings may name."""
        if self.tokenizer is None:
            return self.decode(ids)
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    def prepare(self) -> None:
        """Lay the weights out for decoding, once; for every method alike, baselines included.

        From here on the linear layers have no ``weight``.
        """
        if not self._prepared and self._packs:
            pack_linear_layers(self.model)
        self._prepared = True

    def expect(self, max_tokens: int) -> None:
        """See `targets.base.LengthAware`."""
        self._rope.choose(min(max_tokens, self.max_context))

    def start(self, max_tokens: int, max_nodes: int, feature_layers: Sequence[int]) -> None:
        """Empty the cache; its buffers are made again only when they are too small."""
        self.prepare()
        self.expect(max_tokens)
        self._most_tokens = min(max_tokens, self.max_context)
        capacity = max_tokens + (self.fixed_rows or max_nodes + 1)
        exact = self.fixed_rows is not None
        if exact:  # one width for every view, whatever was asked before
            capacity = -(-capacity // _EXACT_WIDTH) * _EXACT_WIDTH
        kept = self._cache
        if (
            kept is None
            or kept.capacity < capacity
            or (kept.whole_views, kept.capacity) != (exact, capacity if exact else kept.capacity)
        ):
            self._cache = KVCache(self.num_layers, capacity, whole_views=exact)
        assert self._cache is not None
        self._cache.rewind(0)
        self._outputs.choose(tuple(feature_layers))

    @torch.inference_mode()
    def prefill(self, prompt_ids: torch.Tensor) -> TargetOutput:
        """Read the prompt ``[L]``; the LM head sees the last row only."""
        output = self.model(
            input_ids=prompt_ids[None].to(self.device),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return TargetOutput(output.logits[0], self._features())

    @torch.inference_mode()
    def verify(self, pending: int, proposal: Proposal) -> TargetOutput:
        """ONE pass; a chain takes the library's causal path, a tree an ancestor mask."""
        assert self._cache is not None
        self._past = self._cache.length
        rows = proposal.tokens.shape[0] + 1
        if self.fixed_rows is not None and not proposal.is_chain:
            raise TreeProposed(
                "a drafter proposed a tree, and --exact holds for chains only; leave out that "
                "drafter, or --exact."
            )
        ids = proposal.tokens.new_empty((1, self.fixed_rows or rows))
        ids[0, 0] = pending
        ids[0, 1:rows] = proposal.tokens
        ids[0, rows:] = ids[0, rows - 1]
        inputs = {} if proposal.is_chain else self._tree_inputs(proposal)
        if ids.shape[1] > rows:
            positions = torch.arange(self._past, self._past + ids.shape[1], device=self.device)
            inputs["position_ids"] = positions.clamp(max=self._most_tokens - 1)[None]
        output = self.model(input_ids=ids, past_key_values=self._cache, use_cache=True, **inputs)
        features = self._features()
        return TargetOutput(output.logits[0, :rows], None if features is None else features[:rows])

    def rewind(self, length: int) -> None:
        """Keep the first ``length`` committed rows."""
        assert self._cache is not None
        self._cache.rewind(length)

    def commit(self, path: Sequence[int]) -> None:
        """Keep the rows of the pending token and of ``path``."""
        assert self._cache is not None
        with torch.inference_mode():
            self._cache.keep(self._past, [0, *(node + 1 for node in path)])

    @torch.inference_mode()
    def score(self, prompt_ids: Sequence[int], new_tokens: Sequence[int]) -> Iterator[torch.Tensor]:
        """See `targets.base.Scorer`: one pass by the library alone, no cache, no mask of ours."""
        self.prepare()
        self._outputs.choose(())
        ids = torch.tensor([[*prompt_ids, *new_tokens[:-1]]], device=self.device)
        if not self._head_is_last:
            yield self.model(input_ids=ids, use_cache=False, logits_to_keep=len(new_tokens)).logits[
                0
            ]
            return
        hidden = self._decoder(input_ids=ids, use_cache=False).last_hidden_state
        for chunk in hidden[0, len(prompt_ids) - 1 :].split(max(1, _CHUNK // self.vocab_size)):
            yield self.lm_head(chunk)

    @torch.inference_mode()
    def score_stepwise(
        self, prompt_ids: Sequence[int], new_tokens: Sequence[int]
    ) -> Iterator[torch.Tensor]:
        """See `targets.base.StepScorer`: the library's own cache, one token a pass."""
        self.prepare()
        self._outputs.choose(())
        ids = torch.tensor([[*prompt_ids, *new_tokens[:-1]]], device=self.device)
        past = None
        for piece in ids.split([len(prompt_ids), *[1] * (len(new_tokens) - 1)], dim=1):
            output = self.model(
                input_ids=piece, past_key_values=past, use_cache=True, logits_to_keep=1
            )
            past = output.past_key_values
            yield output.logits[0]

    @functools.cached_property
    def _head_is_last(self) -> bool:
        """Whether logits are what the LM head returns; some models cap or scale them behind it."""
        ids = torch.arange(1, 4, device=self.device)[None] % self.vocab_size
        hidden = self._decoder(input_ids=ids, use_cache=False).last_hidden_state
        logits = self.model(input_ids=ids, use_cache=False).logits
        return bool(torch.allclose(self.lm_head(hidden), logits, rtol=0.01, atol=0.01))

    @torch.no_grad()
    def features_of(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        layers: Sequence[int],
        *,
        with_output: bool = False,
    ) -> torch.Tensor:
        """Outputs of ``layers`` side by side, by a pass that ends there; fit to train on.

        Args:
            input_ids: ``[B, L]`` int64.
            attention_mask: ``[B, L]``, 0 where padded.
            layers: 0-based, ascending; may be none with the output.
            with_output: put what the LM head reads behind them.

        Returns:
            ``[B, L, len(layers) * H]`` in the model's dtype; H wider with the output.
        """
        before = self._outputs.chosen
        self._outputs.choose(tuple(layers))
        self.expect(input_ids.shape[1])
        end = contextlib.nullcontext() if with_output else self._outputs.nothing_behind()
        with end:
            output = self._decoder(
                input_ids=input_ids, attention_mask=attention_mask, use_cache=False
            )
        found = [self._outputs.joined(), output.last_hidden_state if with_output else None]
        self._outputs.choose(before)
        return torch.cat([part for part in found if part is not None], dim=-1)

    def _features(self) -> torch.Tensor | None:
        """Of the one sequence of the last pass."""
        joined = self._outputs.joined()
        return None if joined is None else joined[0]

    def _tree_inputs(self, proposal: Proposal) -> dict[str, Any]:
        assert self._cache is not None
        width, _ = self._cache.layers[0].get_mask_sizes(len(proposal.parents) + 1)
        return attention.tree_inputs(
            self.text_config, proposal, self._past, width, self.device, self.dtype
        )


def _stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """The generation config's end-of-sequence ids, and the tokenizer's where it closes a turn.

    Where the generation config names none, the tokenizer's alone.
    """
    stated = model.generation_config.eos_token_id
    own = getattr(tokenizer, "eos_token_id", None)
    stops = {stated} if isinstance(stated, int) else set(stated or ())
    if own is not None and (stated is None or own == ChatTemplate(tokenizer).closing_token()):
        stops.add(own)
    return frozenset(stops)


def unstopped(target: TransformersTarget) -> str | None:
    """Half a sentence about tokens that seem to end an answer and do not; None where all do."""
    ends = {
        "its template closes a turn with": target.chat.closing_token(),
        "its tokenizer ends a text with": getattr(target.tokenizer, "eos_token_id", None),
    }
    found = [
        f"{words} {target.decode_whole([token])!r}"
        for words, token in ends.items()
        if token is not None and token not in target.stop_ids
    ]
    return " and ".join(found) or None
