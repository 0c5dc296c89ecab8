"""Drafters for targets that are no Llama: trained, loaded again, lossless, scaled as they are."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import transformers

from drafters import train as dispatch
from drafters.block_diffusion import workbench
from drafters.block_diffusion.batch_generator import BatchGenerator
from drafters.block_diffusion.config import TrainConfig
from drafters.block_diffusion.head import expected_rows
from drafters.block_diffusion.model import build_target_layer_ids
from drafters.block_diffusion.responses import Query
from drafters.block_diffusion.shape import choose_mask_token, drafter_config
from drafters.block_diffusion.shared_head import SharedHead, as_read, final_norm, norm_weight
from drafters.block_diffusion.trainer import train_variants
from drafters.block_diffusion.variant import initial_model, start_from_target
from drafters.block_diffusion.workbench import open_workbench
from drafters.build import build_drafter
from drafters.none import NoDrafter
from drafters.options import DrafterOptions
from drafters.student.drafter import StudentNetwork
from drafters.student.network import Student
from harness import registry
from harness.decode import generate
from harness.errors import UserError
from harness.kv_cache import KVCache
from harness.sampling import Sampling
from targets.scales import Scales, measured_scales
from targets.transformers_lm import TransformersTarget
from tests import architectures
from tests.tiny_model import word_tokenizer, write_prompts

PROMPT = [1, 3, 9, 8, 7, 4]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "cache"))
    torch.set_num_threads(1)


def settings(
    target: TransformersTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drafter: str
) -> TrainConfig:
    """A training of two steps for a target that is in memory."""
    monkeypatch.setattr(workbench, "load_transformers_target", lambda options, what: target)
    return TrainConfig(
        drafter=drafter,
        data=write_prompts(tmp_path / "prompts.jsonl", 8),
        output_dir=tmp_path / "out",
        steps=2,
        batch_size=2,
        block_size=4,
        max_new_tokens=12,
        held_back=0.2,
        dtype="float32",
        device="cpu",
    )


@pytest.mark.parametrize("name", architectures.CONFIGS)
def test_what_is_trained_loads_again_and_is_lossless(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = architectures.target(name)
    names = "uniform,vp,student" + ("" if name == "bloom" else ",dlm")
    made = dispatch.train(settings(target, tmp_path, monkeypatch, names))
    assert sorted(place.name for place in made) == sorted(names.split(","))
    built = [
        build_drafter(target, DrafterOptions(name=place.name, argument=str(place)))
        for place in made
    ]

    def answer(drafter: object) -> tuple[int, ...]:
        done = generate(target, drafter, PROMPT, sampling=Sampling(), max_new_tokens=24)  # type: ignore[arg-type]
        return done.new_tokens

    expected = answer(NoDrafter())
    for place, drafter in zip(made, built, strict=True):
        assert answer(drafter) == expected, place.name


@pytest.mark.parametrize("name", architectures.CONFIGS)
def test_head_rows_give_the_targets_logits_and_its_distribution(name: str) -> None:
    target = architectures.target(name)
    vocabulary = torch.arange(0, architectures.VOCAB, 3)
    head = SharedHead.of(target, vocabulary)
    ids = torch.tensor([PROMPT])
    hidden = target.model.get_decoder()(input_ids=ids).last_hidden_state[0]
    read = as_read(hidden, head.lm_head)
    logits, cap = read @ head.lm_head.T, head.scales.final_logit_softcapping
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    expected = target.model(input_ids=ids).logits[0][:, vocabulary]
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)
    rows = expected_rows(read, head.lm_head, cap)
    torch.testing.assert_close(rows, expected.softmax(-1) @ head.lm_head, rtol=1e-3, atol=1e-3)


def test_scales_are_those_of_the_configs() -> None:
    found = {name: measured_scales(architectures.target(name)) for name in architectures.CONFIGS}
    others = {name: scales for name, scales in found.items() if scales != Scales()}
    assert others == {
        "granite": Scales(input_embedding_scale=6.0, output_multiplier=0.25),
        "cohere": Scales(output_multiplier=0.25),
        "gemma 2": Scales(input_embedding_scale=4.0, final_logit_softcapping=10.0),
        "gemma 3": Scales(input_embedding_scale=4.0),
        "gemma 3, multimodal": Scales(input_embedding_scale=4.0),
    }


def test_scales_are_a_drafters_but_for_the_cap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("granite", "gemma 2"):
        target = architectures.target(name)
        config = settings(target, tmp_path, monkeypatch, "uniform")
        (place,) = dispatch.train(config)
        body = json.loads((place / "config.json").read_text())["dflash_config"]
        scales = measured_scales(target)
        assert body["input_embedding_scale"] == scales.input_embedding_scale
        assert body.get("output_multiplier", 1.0) == scales.output_multiplier
        assert "final_logit_softcapping" not in body


@pytest.mark.parametrize("name", architectures.CONFIGS)
def test_a_student_of_all_layers_says_what_its_target_says(name: str) -> None:
    target = architectures.target(name)
    student = Student(target, range(target.num_layers))
    student.start_from_target(target)
    network = StudentNetwork(student, target)
    logits = network.logits(torch.tensor(PROMPT), KVCache(target.num_layers, 32))
    expected = target.model(input_ids=torch.tensor([PROMPT])).logits[:, -1]
    cap = measured_scales(target).final_logit_softcapping
    if cap is not None:
        torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", architectures.CONFIGS)
def test_responses_are_those_of_one_sequence_at_a_time(name: str) -> None:
    target = architectures.target(name)
    prompts = [PROMPT, [5, 9, 11, 30, 31, 6, 8, 12, 40, 41], [7, 7]]
    generator = BatchGenerator(target, 12, batch_size=2)
    found = dict(generator.generate([Query(tuple(prompt)) for prompt in prompts]))
    for index, prompt in enumerate(prompts):
        done = generate(target, NoDrafter(), prompt, sampling=Sampling(), max_new_tokens=12)
        assert tuple(found[index]) == done.new_tokens


@pytest.mark.parametrize("batch_size", [1, 3])
def test_without_masks_of_ours_draws_are_the_same(batch_size: int) -> None:
    """ALiBi's positions come with the library's own mask, so prompts are read one by one."""
    target = architectures.target("bloom")
    queries = [Query((1, 9, 8), 5), Query((1, 9, 8, 7, 30), 6), Query((4, 4), 7)]
    drawn = BatchGenerator(target, 9, sampling=Sampling(0.9, seed=0), batch_size=batch_size)
    first = dict(drawn.generate(queries))
    again = dict(drawn.generate(list(reversed(queries))))
    assert [first[i] for i in range(3)] == [again[2 - i] for i in range(3)]
    assert len({tuple(answer) for answer in first.values()}) == 3


def test_no_dlm_is_made_of_layers_that_take_no_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(architectures.target("bloom"), tmp_path, monkeypatch, "dlm")
    with pytest.raises(UserError, match="take no mask that lets a token see those behind"):
        dispatch.train(config)


@pytest.mark.parametrize(
    ("layers", "count", "expected"),
    [
        (8, 5, (1, 2, 3, 4, 5)),
        (7, 5, (1, 2, 3, 4)),
        (5, 3, (1, 2)),
        (4, 5, (2,)),
        (3, 5, (1,)),
        (2, 5, (0,)),
        (2, 1, (0,)),
    ],
)
def test_a_shallow_target_gives_fewer_features(
    layers: int, count: int, expected: tuple[int, ...]
) -> None:
    assert build_target_layer_ids(layers, count) == expected


@pytest.mark.parametrize("layers", range(2, 60))
def test_layers_that_are_read_are_distinct_and_below_the_last(layers: int) -> None:
    for count in range(1, 12):
        chosen = build_target_layer_ids(layers, count)
        assert list(chosen) == sorted(set(chosen))
        assert 0 <= chosen[0] <= chosen[-1] < layers - 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt-2", {"rope_type": "default", "rope_theta": 10000.0}),
        ("phi", {"rope_type": "default", "rope_theta": 10000.0}),
        ("gemma 3", {"rope_type": "default", "rope_theta": 1000000.0}),
        ("llama, longrope", {"rope_type": "default", "rope_theta": 5000.0}),
    ],
)
def test_a_drafters_positions(
    name: str,
    expected: dict[str, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One rotary embedding that never changes: of the full-attention layers, over whole heads."""
    target = architectures.target(name)
    shape = drafter_config(target, settings(target, tmp_path, monkeypatch, "uniform"), Scales())
    assert shape.rope_parameters == expected


def test_a_mlp_of_four_widths_where_the_target_names_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, expected in (("gpt-2", 64), ("bloom", 64), ("starcoder 2", 24)):
        target = architectures.target(name)
        shape = drafter_config(target, settings(target, tmp_path, monkeypatch, "x"), Scales())
        assert shape.intermediate_size == expected
        assert shape.rms_norm_eps == 1e-6
        assert shape.max_position_embeddings <= 2**17


def test_one_sentence_where_nothing_can_be_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = architectures.CONFIGS["opt"]()
    narrow.word_embed_proj_dim = 8
    alone = architectures.target("llama, 2 layers", num_hidden_layers=1)
    for target, drafter, sentence in (
        (architectures.target("opt", narrow), "uniform", "embedding of opt is 8 wide"),
        (architectures.target("opt", narrow), "student", "embedding of opt is 8 wide"),
        (alone, "uniform", "has one layer"),
    ):
        config = settings(target, tmp_path, monkeypatch, drafter)
        with pytest.raises(UserError, match=sentence):
            dispatch.train(config)


def test_weights_that_are_not_numbers_are_found_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = architectures.target("qwen3")
    target.decoder_layers[-1].mlp.down_proj.weight[0, 0] = float("nan")
    config = settings(target, tmp_path, monkeypatch, "uniform")
    with pytest.raises(UserError, match="not numbers"):
        dispatch.train(config)
    assert not (tmp_path / "cache" / "responses").exists()


def with_tokenizer(rows: int, **added: object) -> TransformersTarget:
    config = transformers.LlamaConfig(**{**architectures._sizes(2), "vocab_size": rows})
    target = architectures.target("llama", config)
    target.tokenizer.add_special_tokens(added)
    return target


def test_the_mask_is_what_is_never_shown() -> None:
    words = len(word_tokenizer())
    spare = with_tokenizer(words + 4)
    assert choose_mask_token(spare) == words
    full = with_tokenizer(words)
    never = full.tokenizer.convert_tokens_to_ids("<never>")
    assert choose_mask_token(full) == choose_mask_token(full, reads_prompts=True) == never
    # With that one asked for, <unk> is what text rarely has; then <assistant>, of prompts only.
    full.tokenizer.chat_template += "{# <never> #}"
    unknown = full.tokenizer.unk_token_id
    assert choose_mask_token(full) == choose_mask_token(full, reads_prompts=True) == unknown
    full.tokenizer.chat_template += "{# <unk> #}"
    assert choose_mask_token(full) == never
    with pytest.raises(UserError, match="no unused token"):
        choose_mask_token(full, reads_prompts=True)


def test_the_mask_is_a_row_that_no_word_has() -> None:
    target = with_tokenizer(len(word_tokenizer()) + 4)
    vocabulary = {word: index + (index > 20) for word, index in target.tokenizer.vocab.items()}
    target.tokenizer.get_vocab = lambda: vocabulary
    assert choose_mask_token(target) == 21


@pytest.mark.parametrize("name", ["gemma 2", "gemma 3", "olmo 2", "phi", "cohere", "gpt-2"])
def test_weights_stay_random_where_layers_work_otherwise(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = architectures.target(name)
    config = settings(target, tmp_path, monkeypatch, "uniform")
    head = SharedHead.of(target, torch.arange(target.vocab_size))
    shape = drafter_config(target, config, head.scales)
    model = initial_model(shape, head, 0, torch.float32)
    width = len(shape.target_layer_ids) * target.hidden_size
    assert not start_from_target(model, target, torch.ones(width))


def test_granites_part_of_a_sublayer_moves_into_its_last_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = architectures.target("granite")
    config = settings(target, tmp_path, monkeypatch, "uniform")
    head = SharedHead.of(target, torch.arange(target.vocab_size))
    shape = drafter_config(target, config, head.scales)
    model = initial_model(shape, head, 0, torch.float32)
    width = len(shape.target_layer_ids) * target.hidden_size
    assert start_from_target(model, target, torch.ones(width))
    own, its = model.stack()[-1], target.decoder_layers[-1]
    torch.testing.assert_close(own.mlp.down_proj.weight, 0.3 * its.mlp.down_proj.weight)
    assert torch.equal(own.mlp.up_proj.weight, its.mlp.up_proj.weight)


@pytest.mark.parametrize("name", ["llama, 2 layers", "gemma 2", "gemma 3", "granite"])
def test_the_weight_of_a_norm_is_what_it_multiplies_by(name: str) -> None:
    target = architectures.target(name)
    norm = final_norm(target.model.get_decoder(), target.hidden_size)
    assert norm is not None
    x = torch.randn(5, target.hidden_size)
    scaled = x * x.square().mean(-1, keepdim=True).rsqrt()
    torch.testing.assert_close(norm(x), scaled * norm_weight(norm), rtol=1e-3, atol=1e-3)


def test_a_checkpoint_of_another_multiplier_goes_on_at_its_own_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one for Granite that was written before multipliers were measured."""
    target = architectures.target("granite")
    config = settings(target, tmp_path, monkeypatch, "uniform")
    (place,) = dispatch.train(config)
    file = place / "config.json"
    body = json.loads(file.read_text())
    assert body["dflash_config"].pop("output_multiplier") == 0.25
    file.write_text(json.dumps(body))
    again = dataclasses.replace(config, start_from=place, output_dir=tmp_path / "again", steps=1)
    bench = open_workbench(again, ())
    objectives = {"uniform": registry.load("objectives", "uniform")}
    still = dataclasses.replace(again, learning_rate=1e-9)
    (variant,) = train_variants(bench, still, objectives)
    model = variant.export(bench.corpus.scale)
    before = build_drafter(target, DrafterOptions(name="uniform", argument=str(place)))
    assert model.config.output_multiplier == 0.25
    torch.testing.assert_close(0.25 * model.norm.weight, before.model.norm.weight)
