"""A tiny causal LM with tokenizer and chat template on disk: the real loading path, in seconds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SAMPLES = Path(__file__).resolve().parent.parent / "tasks" / "samples"
WORDS = [f"w{i}" for i in range(40)]
SPECIAL = ["<unk>", "<s>", "</s>", "<user>", "<assistant>", "<never>"]
TEMPLATE = (
    "{{ '<s>' }}{% for message in messages %}"
    "{{ ' <' + message['role'] + '> ' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' <assistant> ' }}{% endif %}"
)


def word_tokenizer() -> PreTrainedTokenizerFast:
    """46 words, one token each, and a template that asks for an answer."""
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<user>", "<assistant>", "<never>"],
    )
    fast.chat_template = TEMPLATE
    return fast


def write_model(
    directory: Path, seed: int = 0, hidden_size: int = 32, max_position_embeddings: int = 256
) -> Path:
    """Five random layers over 46 words, float32."""
    fast = word_tokenizer()
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(fast),
            hidden_size=hidden_size,
            intermediate_size=48,
            num_hidden_layers=5,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=max_position_embeddings,
            initializer_range=0.3,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=None,
            tie_word_embeddings=True,
        )
    )
    model.save_pretrained(directory)
    fast.save_pretrained(directory)
    return directory


def write_prompts(path: Path, count: int = 24) -> Path:
    """Prompts of a few words each."""
    draw = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(count):
        chosen = torch.randint(0, len(WORDS), (4,), generator=draw).tolist()
        rows.append({"prompt": " ".join(WORDS[i] for i in chosen)})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_tasks(directory: Path) -> Path:
    """A data directory of all tasks: the project's samples under the names of upstream's files."""
    files = (
        *("mt_bench/question", "gsm8k/test", "humaneval/HumanEval", "mbpp/sanitized_test"),
        *("livecodebench/problems_own", "alpaca/alpaca"),
    )
    for file in files:
        place = directory / f"{file}.jsonl"
        place.parent.mkdir(parents=True)
        shutil.copy(SAMPLES / f"{place.parent.name}.jsonl", place)
    return directory
