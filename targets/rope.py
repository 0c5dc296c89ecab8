"""One set of rotary factors for a whole answer, where the library's would change with its length.

LongRoPE has factors for short and for long sequences, and the library takes those that fit the
last position of each pass. Keys already in a cache keep the old factors, so an answer that crosses
the switch is no longer what one pass over it would give, and passes of several tokens cross it
elsewhere than passes of one. Dynamic NTK is of the same kind.

Here the library is shown the last position the answer may reach in every pass, so it chooses once.
"""

from __future__ import annotations

from typing import Any

import torch

_CHANGING = ("longrope", "dynamic")
"""Rotary types whose factors the library takes from the last position of a pass."""


class RopeLength:
    """How many tokens a model's length-dependent rotary factors are chosen for.

    Copies of the model made later follow the same choice.
    """

    def __init__(self, model: Any) -> None:
        """Watch those modules of ``model`` that have such factors; most models have none."""
        config = model.config.get_text_config()
        self.switch: int | None = None
        """The first length with other factors; None where no length has."""
        self.last: int | None = None
        """The last position shown to the library; None shows it those of the pass alone."""
        for module in model.modules():
            for name in _changing_types(module):
                found = _switch(config, module, name)
                self.switch = found if self.switch is None else min(self.switch, found)
            if _changing_types(module):
                self._watch(module)

    def choose(self, max_tokens: int) -> None:
        """From now on take the factors of sequences of ``max_tokens``."""
        self.last = max_tokens - 1

    def _watch(self, module: torch.nn.Module) -> None:
        """Hooks are functions and not methods: a deep copy of the module shares them."""

        def show_last(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            positions = kwargs.get("position_ids", args[1] if len(args) > 1 else None)
            if self.last is None or positions is None:
                return None
            last = positions.new_full((*positions.shape[:-1], 1), self.last)
            longer = torch.cat((positions, last), -1)
            if "position_ids" in kwargs:
                return args, {**kwargs, "position_ids": longer}
            return (args[0], longer, *args[2:]), kwargs

        def leave_out_last(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
            if self.last is None:
                return None
            if isinstance(output, torch.Tensor):
                return output[..., :-1, :]
            return tuple(item[..., :-1, :] for item in output)

        module.register_forward_pre_hook(show_last, with_kwargs=True)
        module.register_forward_hook(leave_out_last, with_kwargs=True)


def _changing_types(module: Any) -> list[str | None]:
    """Layer types of a rotary module whose factors change; ``[None]`` where all layers share it."""
    stated = getattr(module, "rope_type", None)
    by_layer = stated if isinstance(stated, dict) else {None: stated}
    return [
        layer
        for layer, kind in by_layer.items()
        if isinstance(kind, str) and any(part in kind for part in _CHANGING)
    ]


def _switch(config: Any, module: Any, layer: str | None) -> int:
    """The first length of other factors."""
    own = getattr(module, "config", config)
    rules = own.rope_parameters if layer is None else own.rope_parameters[layer]
    if "longrope" in rules["rope_type"]:
        return int(rules["original_max_position_embeddings"]) + 1
    return int(own.max_position_embeddings) + 1
