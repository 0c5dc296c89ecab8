"""vLLM's side of `versus_vllm`: answers prompts greedily and writes down what vLLM counted.

    .venv-vllm/bin/python -P tests/bench/vllm_side.py REQUEST.json ANSWERS.json

Runs in vLLM's own environment and imports nothing of this project. vLLM's counters only grow, so
prompts are answered one by one, and what a counter grew by meanwhile is that prompt's.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

COUNTERS = {
    "drafts": "vllm:spec_decode_num_drafts",
    "draft_tokens": "vllm:spec_decode_num_draft_tokens",
    "accepted": "vllm:spec_decode_num_accepted_tokens",
}
BY_POSITION = "vllm:spec_decode_num_accepted_tokens_per_pos"

ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB
    # Its own choice of cores knows nothing of what else runs; OMP_NUM_THREADS says how many.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # In one process a step that returns has been counted.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
}


def main(request_path: Path, answers_path: Path) -> None:
    """Load what the request names, answer its prompts, write the answers."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import torch
    import vllm

    request = json.loads(request_path.read_text(encoding="utf-8"))
    engine = vllm.LLM(
        model=request["target"],
        dtype=request["dtype"],
        max_model_len=request["max_model_len"],
        max_num_seqs=1,
        enforce_eager=True,
        enable_prefix_caching=False,  # a prompt's rows are computed, not those of one before it
        disable_log_stats=False,
        skip_tokenizer_init=True,
        speculative_config={
            "method": "dflash",
            "model": request["drafter"],
            "num_speculative_tokens": request["num_speculative_tokens"],
        },
    ).llm_engine
    rules = vllm.SamplingParams(
        temperature=0.0,
        max_tokens=request["max_new_tokens"],
        stop_token_ids=request["stop_ids"],
        ignore_eos=True,  # the request's stop ids and no others
        detokenize=False,
    )
    answers = []
    for prompt_ids in request["prompts"]:
        answers.append(answer(engine, str(len(answers)), prompt_ids, rules))
        print(f"{len(answers)} of {len(request['prompts'])} prompts", file=sys.stderr, flush=True)
    versions = {"vllm": vllm.__version__, "torch": torch.__version__}
    body = {"versions": versions, "num_threads": torch.get_num_threads(), "answers": answers}
    answers_path.write_text(json.dumps(body), encoding="utf-8")


def answer(engine: Any, name: str, prompt_ids: list[int], rules: Any) -> dict[str, Any]:
    """One prompt, step by step.

    Returns:
        ``new_tokens``; ``steps``, how many of them each step of the engine brought, the prefill's
        first; and what each counter grew by.
    """
    before = counts(engine.get_metrics())
    engine.add_request(name, {"prompt_token_ids": prompt_ids}, rules)
    new_tokens: list[int] = []
    steps: list[int] = []
    while engine.has_unfinished_requests():
        for output in engine.step():
            so_far = list(output.outputs[0].token_ids)
            if len(so_far) > len(new_tokens):
                steps.append(len(so_far) - len(new_tokens))
                new_tokens = so_far
    after = counts(engine.get_metrics())
    grown: dict[str, Any] = {key: after[key] - before[key] for key in COUNTERS}
    grown["by_position"] = [
        b - a for a, b in zip(before["by_position"], after["by_position"], strict=True)
    ]
    return {"new_tokens": new_tokens, "steps": steps, **grown}


def counts(metrics: list[Any]) -> dict[str, Any]:
    """vLLM's cumulative counters of drafting, by our names."""
    by_name = {metric.name: metric for metric in metrics}
    found: dict[str, Any] = {key: by_name[name].value for key, name in COUNTERS.items()}
    found["by_position"] = list(by_name[BY_POSITION].values)
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
