"""A shallow student: some layers of a target, between its own embedding and LM head.

Source: distilled draft models, Zhou et al. (DistillSpec), arXiv 2310.08461; a student that starts
from layers of its teacher, Sanh et al. (DistilBERT), arXiv 1910.01108.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from drafters.block_diffusion.data import Blocks
from drafters.block_diffusion.variant import teacher_rows
from harness.errors import UserError
from harness.kv_cache import KVCache
from targets.layer_outputs import decoder_layers
from targets.transformers_lm import TransformersTarget


def choose_layers(num_target_layers: int, num_layers: int) -> tuple[int, ...]:
    """Layers of the target that a student starts from: the first ones.

    Layers spread evenly from the first to the last (DistilBERT's choice) were tried: after 96 steps
    two of SmolLM2's thirty had a held-back accepted length of 1.40, its first two 1.55.

    Raises:
        UserError: the target has fewer.
    """
    if num_layers > num_target_layers:
        raise UserError(
            f"a student of {num_layers} layers cannot start from a target of {num_target_layers}; "
            "give fewer --num-layers."
        )
    return tuple(range(num_layers))


class Student(nn.Module):
    """Decoder layers and final norm; embedding and LM head are the target's and no part of it.

    Shapes: B sequences of L tokens, T tokens of all end to end, D hidden, N blocks of K tokens.
    """

    def __init__(self, target: TransformersTarget, layer_ids: Sequence[int]) -> None:
        """Take the shapes of layers ``layer_ids`` of ``target``, ascending; weights are random."""
        super().__init__()
        self.layer_ids = tuple(layer_ids)
        whole = target.model.get_decoder()
        config = copy.deepcopy(whole.config)
        config.num_hidden_layers = len(self.layer_ids)
        if getattr(config, "layer_types", None):
            config.layer_types = [config.layer_types[layer] for layer in self.layer_ids]
        config.vocab_size, config.pad_token_id = 1, None  # an embedding that goes at once
        self.decoder = type(whole)(config)
        self.decoder.set_input_embeddings(nn.Identity())
        self.decoder.set_attn_implementation(target.attn)
        self.decoder.to(target.device).eval()
        for parameter in self.decoder.parameters():  # buffers, such as rotary tables, stay wide
            parameter.data = parameter.data.to(target.dtype)

    @torch.no_grad()
    def start_from_target(self, target: TransformersTarget) -> None:
        """Copy the target's weights; it must not have been prepared for decoding."""
        whole = target.model.get_decoder()
        layers = decoder_layers(self.decoder, len(self.layer_ids))
        for own, layer in zip(layers, self.layer_ids, strict=True):
            own.load_state_dict(target.decoder_layers[layer].state_dict())
        for name, module in self.decoder.named_children():
            if module is not layers and not isinstance(module, nn.Identity):
                module.load_state_dict(getattr(whole, name).state_dict())

    def outputs(self, embedded: torch.Tensor, cache: KVCache | None = None) -> torch.Tensor:
        """What the LM head reads, ``[B, L, D]``, of embedded tokens; read behind ``cache``."""
        output = self.decoder(
            inputs_embeds=embedded, past_key_values=cache, use_cache=cache is not None
        )
        hidden: torch.Tensor = output.last_hidden_state
        return hidden

    def drafts(
        self,
        blocks: Blocks,
        features: torch.Tensor,
        embedding: torch.Tensor,
        visible: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Outputs ``[N, K − 1, D]`` where each label of a block is predicted.

        The tokens before a label are the true ones, as they are in a draft up to its first error.

        Args:
            blocks: of sequences that lie end to end.
            features: ``[T, D]``, their embedded tokens.
            embedding: not used; the tokens come embedded.
            visible: not used; every label is behind the true tokens before it.
        """
        padded = pad_sequence(list(torch.split(features, list(blocks.lengths))), batch_first=True)
        # Padding stands on the right, where no real token looks.
        rows = self.outputs(padded)
        pairs = zip(rows, blocks.lengths, strict=True)
        return torch.cat([row[:length] for row, length in pairs])[teacher_rows(blocks)]
