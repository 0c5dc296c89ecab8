"""What exact mode costs: tokens a second of ar_loop and a drafter, in both modes by turns.

python -m tests.bench.exact_cost --drafter combined --prompts 2 --max-new-tokens 48
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

import tyro

from drafters.none import NoDrafter
from drafters.options import DrafterOptions
from harness import registry
from harness.decode import generate
from harness.errors import UserError
from harness.plan import load_tasks
from harness.sampling import Sampling
from targets.base import TargetOptions
from targets.exact import hold
from targets.load import load_target
from tests.bench.stopwatch import timed


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compare the speed of exact and ordinary mode on the same prompts."""

    drafter: str = "combined"
    """Its name, as for run."""
    target: str = "smollm2"
    """Name of a target, a local directory or a hub id."""
    task: str = "gsm8k"
    """Where the prompts are from."""
    prompts: int = 2
    """How many of them."""
    max_new_tokens: int = 48
    """Tokens of every answer; nothing stops it earlier."""


def main() -> int:
    """Measure, print a table and one line of JSON."""
    options = tyro.cli(Options)
    try:
        summary = _measure(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"{'method':<12}{'ordinary':>10}{'exact':>10}{'ratio':>8}   tokens/s, exact over ordinary"
    )
    for method, row in summary["methods"].items():
        print(f"{method:<12}{row['ordinary']:>10.2f}{row['exact']:>10.2f}{row['ratio']:>8.3f}")
    print(json.dumps(summary))
    return 0


def _measure(options: Options) -> dict[str, Any]:
    """Tokens a second of decoding by method and mode; the first prompt is also the warm-up."""
    pairs = {mode: _pair(options, mode) for mode in ("ordinary", "exact")}
    target = pairs["exact"][0]
    chosen = load_tasks((options.task,), None, options.prompts)[options.task].prompts
    prompts = [
        target.encode_chat([{"role": "user", "content": prompt.turns[0]}]) for prompt in chosen
    ]
    seconds: dict[tuple[str, str], float] = {}
    answers: dict[tuple[str, str], list[tuple[int, ...]]] = {}
    for count, prompt in enumerate((prompts[0], *prompts)):
        for name in ("ar_loop", options.drafter):
            for mode, (own, drafter) in pairs.items():
                proposer = NoDrafter(own.device) if name == "ar_loop" else drafter

                def answer(own: Any = own, proposer: Any = proposer, ids: Any = prompt) -> Any:
                    limit = options.max_new_tokens
                    return generate(own, proposer, ids, sampling=Sampling(), max_new_tokens=limit)

                _, done = timed(own.device, answer)
                if count:
                    seconds[name, mode] = seconds.get((name, mode), 0.0) + done.decode_s
                    answers.setdefault((name, mode), []).append(done.new_tokens)
    tokens = len(prompts) * (options.max_new_tokens - 1)
    speeds = {key: tokens / value for key, value in seconds.items()}
    return {
        "exact_rows": target.describe()["exact_rows"],
        "methods": {
            name: {
                "ordinary": speeds[name, "ordinary"],
                "exact": speeds[name, "exact"],
                "ratio": speeds[name, "exact"] / speeds[name, "ordinary"],
            }
            for name in ("ar_loop", options.drafter)
        },
        "answers_like_ar_loop": {
            mode: sum(
                a == b
                for a, b in zip(
                    answers["ar_loop", mode], answers[options.drafter, mode], strict=True
                )
            )
            for mode in pairs
        },
    }


def _pair(options: Options, mode: str) -> tuple[Any, Any]:
    """A target in ``mode`` and its drafter; answers do not stop early."""
    target: Any = load_target(TargetOptions(name=options.target))
    target.stop_ids = frozenset()
    wanted = DrafterOptions.parse(options.drafter)
    row = registry.resolve("drafters", wanted.name)
    drafter = row.load()(target, wanted, **row.options)
    if mode == "exact":
        hold(target, drafter.max_nodes + 1)
    return target, drafter


if __name__ == "__main__":
    sys.exit(main())
