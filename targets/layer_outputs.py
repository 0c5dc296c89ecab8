"""Outputs of chosen decoder layers, kept while the model runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


class _Reached(Exception):
    """The last layer that was asked for has run."""


class LayerOutputs:
    """A layer's output is its own: before any final norm."""

    def __init__(self, layers: torch.nn.ModuleList, device: torch.device) -> None:
        """``joined`` returns them on ``device``; the layers may run on others."""
        self.chosen: tuple[int, ...] = ()
        self._layers = layers
        self._device = device
        self._hooks: list[Any] = []
        self._kept: dict[int, torch.Tensor] = {}

    def choose(self, chosen: tuple[int, ...]) -> None:
        """Keep the outputs of exactly these layers, 0-based, from the next pass on."""
        if chosen == self.chosen:
            return
        for hook in self._hooks:
            hook.remove()
        self._kept.clear()
        self._hooks = [
            self._layers[layer].register_forward_hook(self._hook(layer)) for layer in chosen
        ]
        self.chosen = chosen

    def joined(self) -> torch.Tensor | None:
        """``[B, L, len(chosen) * H]`` of the last pass; None where no layer is chosen."""
        if not self.chosen:
            return None
        return torch.cat([self._kept[layer].to(self._device) for layer in self.chosen], dim=-1)

    @contextlib.contextmanager
    def nothing_behind(self) -> Iterator[None]:
        """A pass inside ends behind the last chosen layer; what would follow it is not computed."""

        def end(*_: Any) -> None:
            raise _Reached

        hook = self._layers[self.chosen[-1]].register_forward_hook(end)
        try:
            with contextlib.suppress(_Reached):
                yield
        finally:
            hook.remove()

    def _hook(self, layer: int) -> Any:
        def keep(module: Any, inputs: Any, output: Any) -> None:
            self._kept[layer] = output[0] if isinstance(output, tuple) else output

        return keep


def decoder_layers(decoder: Any, num_layers: int) -> torch.nn.ModuleList:
    """The list of decoder layers, whatever the architecture calls it."""
    for module in decoder.children():
        if isinstance(module, torch.nn.ModuleList) and len(module) == num_layers:
            return module
    raise ValueError(f"{type(decoder).__name__} has no list of {num_layers} layers")
