"""How near the loop comes to the floor that memory sets: weights read per token / bandwidth.

    python -m tests.bench.bandwidth --target smollm2
    python -m tests.bench.bandwidth --random qwen3-4b

At batch size 1 every token reads all weights once; the K/V cache is left out, so the floor is a
little too low. Also what wider verify passes cost, as ratios to a pass of one row.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import tyro

from drafters.base import Proposal
from drafters.none import NoDrafter
from harness.decode import generate
from harness.errors import UserError
from harness.sampling import Sampling
from targets.base import TargetOptions
from targets.load import load_target
from targets.transformers_lm import TransformersTarget
from tests.bench.stopwatch import device_seconds, timed

SHAPES: Mapping[str, Mapping[str, Any]] = {
    "qwen3-4b": {
        "num_hidden_layers": 36,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "max_position_embeddings": 40960,
        "tie_word_embeddings": True,
    }
}
"""Fields of a ``Qwen3Config``."""

BUFFER_BYTES = {"cuda": 1 << 31, "cpu": 1 << 29}
"""Far more than any cache holds."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compare ar_loop's time per token with the time its weights take to be read."""

    target: str = "smollm2"
    """Name of a target, a local directory or a hub id."""
    random: Literal["qwen3-4b"] | None = None
    """A target of this shape with random weights, made on the device, in place of --target."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the weights."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where it runs."""
    context: int = 200
    """Tokens of the prompt."""
    max_new_tokens: int = 33
    """Tokens of an answer."""
    repeats: int = 7
    """Interleaved measurements; medians count."""


def main() -> int:
    """Measure, print a table and one line of JSON."""
    options = tyro.cli(Options)
    try:
        target = _target(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    # Answers have their full length, and every measurement the same one.
    target.stop_ids = frozenset()
    draw = torch.Generator().manual_seed(0)
    prompt = torch.randint(0, target.vocab_size, (options.context,), generator=draw)
    summary = {
        "target": options.random or options.target,
        "dtype": options.dtype,
        "device": _device_name(target.device),
        "num_threads": torch.get_num_threads(),
        "context": options.context,
        **_floor(target, prompt.tolist(), options),
        "pass_ratio": _passes(target, prompt, options.repeats),
    }
    _print_table(summary)
    print(json.dumps(summary))
    return 0


def _target(options: Options) -> TransformersTarget:
    if options.random:
        dtype = getattr(torch, options.dtype)
        return random_target(options.random, SHAPES[options.random], dtype, options.device)
    target = load_target(
        TargetOptions(name=options.target, dtype=options.dtype, device=options.device)
    )
    assert isinstance(target, TransformersTarget)
    return target


def random_target(
    name: str, shape: Mapping[str, Any], dtype: torch.dtype, device: str
) -> TransformersTarget:
    """A Qwen 3 of any shape whose random weights never pass through the host."""
    from transformers import AutoModelForCausalLM, Qwen3Config

    with torch.device(device):
        model = AutoModelForCausalLM.from_config(Qwen3Config(**shape), dtype=dtype)
    return TransformersTarget(model.eval().requires_grad_(False), None, name=f"random {name}")


def weight_bytes(target: TransformersTarget) -> int:
    """Bytes of weights that one token reads: all but an embedding that is not the LM head too."""
    total = sum(item.numel() * item.itemsize for item in target.model.parameters())
    embedding = target.embed_tokens.weight
    if embedding is target.lm_head.weight:
        return total
    return total - embedding.numel() * embedding.itemsize


def _floor(target: TransformersTarget, prompt: list[int], options: Options) -> dict[str, Any]:
    """Bandwidth and seconds a token, measured in turns."""
    source = torch.ones(BUFFER_BYTES[target.device.type] // 4, device=target.device)
    copy = torch.empty_like(source)
    bandwidths: list[float] = []
    token_s: list[float] = []
    for repeat in range(options.repeats + 1):
        read_s = device_seconds(target.device, source.sum)
        copy_s = device_seconds(target.device, lambda: copy.copy_(source))
        done = generate(
            target,
            NoDrafter(target.device),
            prompt,
            sampling=Sampling(),
            max_new_tokens=options.max_new_tokens,
        )
        if repeat == 0:
            continue  # warm-up
        size = source.numel() * source.itemsize
        # A copy reads and writes; whichever is faster is nearer to what the memory can do.
        bandwidths.append(max(size / read_s, 2 * size / copy_s))
        token_s.append(done.decode_s / (len(done.new_tokens) - 1))
    bandwidth = statistics.median(bandwidths)
    measured_s = statistics.median(token_s)
    floor_s = weight_bytes(target) / bandwidth
    return {
        "weight_bytes": weight_bytes(target),
        "bandwidth_bytes_per_s": bandwidth,
        "floor_s": floor_s,
        "token_s": measured_s,
        "share_of_bandwidth": floor_s / measured_s,
    }


def _proposals(device: torch.device) -> dict[str, Proposal]:
    """What each pass verifies; a pass has one row more than the proposal has nodes."""

    def tokens(count: int) -> torch.Tensor:
        return torch.arange(count, device=device)

    return {
        "1 row": Proposal.chain(tokens(0)),
        "8 rows": Proposal.chain(tokens(7)),
        "16 rows": Proposal.chain(tokens(15)),
        "tree of 16 nodes": Proposal(tokens(16), tuple((node - 2) // 2 for node in range(16))),
    }


def _passes(target: TransformersTarget, prompt: torch.Tensor, repeats: int) -> dict[str, float]:
    """Seconds of a verify pass and of reading its argmax, over those of a pass of one row."""
    proposals = list(_proposals(target.device).items())
    # Each pass leaves one row behind, whatever its width.
    target.start(prompt.shape[0] + len(proposals) * (repeats + 1), 16, ())
    target.prefill(prompt.to(target.device))
    seconds: dict[str, list[float]] = {name: [] for name, _ in proposals}
    order = random.Random(0)
    for repeat in range(repeats + 1):
        order.shuffle(proposals)
        for name, proposal in proposals:
            taken, _ = timed(target.device, _one_pass(target, proposal))
            target.commit(())
            if repeat > 0:
                seconds[name].append(taken)
    one = statistics.median(seconds["1 row"])
    return {name: statistics.median(seconds[name]) / one for name in _proposals(target.device)}


def _one_pass(target: TransformersTarget, proposal: Proposal) -> Callable[[], list[int]]:
    return lambda: target.verify(0, proposal).logits.argmax(-1).tolist()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _print_table(summary: Mapping[str, Any]) -> None:
    print(
        f"{summary['target']}, {summary['dtype']}, {summary['device']}, "
        f"{summary['context']} tokens of context"
    )
    print(f"weights read per token     {summary['weight_bytes'] / 1e9:8.3f} GB")
    print(f"memory bandwidth           {summary['bandwidth_bytes_per_s'] / 1e9:8.1f} GB/s")
    print(f"floor                      {summary['floor_s'] * 1e3:8.2f} ms a token")
    print(f"ar_loop                    {summary['token_s'] * 1e3:8.2f} ms a token")
    print(f"share of the bandwidth     {summary['share_of_bandwidth']:8.2f}")
    for name, ratio in summary["pass_ratio"].items():
        print(f"verify pass, {name:<16}{ratio:6.2f} × 1 row")


if __name__ == "__main__":
    sys.exit(main())
