from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_directories import answers, generation, rounds

from harness import bootstrap, metrics, paired
from harness.metrics import NoData
from harness.records import Generation, Round

DEPTH = 7


def test_tau_by_hand() -> None:
    both = [generation(accepted=[3, 1]), generation(accepted=[0])]
    assert metrics.tau(both) == (4 + 2 + 1) / 3
    assert metrics.tau_macro(both) == ((4 + 2) / 2 + 1) / 2


def test_tau_of_one_token_a_pass_is_one() -> None:
    assert metrics.tau([generation(accepted=[0] * 9, depth=0)]) == 1.0


def test_cut_last_round_counts_what_was_committed() -> None:
    cut = [generation(accepted=[3, 5], cut=4)]
    assert metrics.tau(cut) == (4 + 2) / 2
    assert metrics.tau_macro(cut) == 3.0


def test_answers_without_rounds_are_left_out_and_counted() -> None:
    mixed = [
        generation(accepted=[2]),
        generation(accepted=[]),
        generation(num_new_tokens=9),
    ]
    assert metrics.tau(mixed) == 3.0
    assert metrics.num_without_rounds(mixed) == 2


def test_acceptance_per_node_counts_every_branch() -> None:
    tree = Round(depth=2, nodes=6, accepted=2, committed=3, draft_tokens=(1, 2))
    item = Generation(
        **{name: getattr(generation(accepted=[2]), name) for name in Generation.__slots__}
        | {
            "task": "gsm8k",
            "prompt_id": "0",
            "turn": 1,
            "method": "tree",
            "repeat": 0,
            "rounds": (tree,),
        }
    )
    assert metrics.node_acceptance_rate([item]) == 2 / 6


def test_speedup_by_hand() -> None:
    slow = [
        generation(method="ar_loop", accepted=[0] * 10, depth=0, decode_s=10.0, prefill_s=1.0),
        generation(method="ar_loop", prompt_id="only here", accepted=[0], depth=0, decode_s=99.0),
    ]
    fast = [generation(accepted=[4, 4], decode_s=4.0, prefill_s=2.0)]
    assert metrics.speedup(slow, fast) == pytest.approx((10 / 10) / (4 / 10))
    assert metrics.speedup_end_to_end(slow, fast) == pytest.approx(11 / 6)
    assert metrics.tokens_per_s(fast) == 10 / 4


def test_speedup_of_different_lengths_is_per_token() -> None:
    slow = [generation(accepted=[0] * 20, depth=0, decode_s=20.0)]
    fast = [generation(accepted=[4], decode_s=2.5)]
    assert metrics.speedup(slow, fast) == pytest.approx(2.0)


def test_an_answer_of_one_token_adds_time_but_no_decoded_tokens() -> None:
    one = generation(accepted=[], prompt_id="1", decode_s=0.0)
    fast = [generation(accepted=[4], decode_s=1.0), one]
    assert metrics.tokens_per_s(fast) == 5.0
    assert metrics.speedup(fast, fast) == 1.0
    with pytest.raises(NoData):
        metrics.tokens_per_s([one])


def test_pairs_need_the_same_prompt_tokens() -> None:
    turn = generation(accepted=[1], turn=2, prompt_sha256="a")
    other = generation(accepted=[1], turn=2, prompt_sha256="b")
    assert metrics.pairs([turn], [turn]) == [(turn, turn)]
    assert metrics.pairs([turn], [other]) == []
    with pytest.raises(NoData):
        metrics.speedup([turn], [other])
    with pytest.raises(ValueError, match="two generations"):
        metrics.pairs([turn, turn], [turn])


def test_turns_and_repeats_of_one_prompt_are_not_mixed() -> None:
    one = [generation(accepted=[1], turn=turn, repeat=r) for turn in (1, 2) for r in (0, 1)]
    other = [generation(accepted=[2], turn=turn, repeat=r) for turn in (2, 1) for r in (1, 0)]
    both = metrics.pairs(one, other)
    assert [(a.turn, a.repeat) for a, _ in both] == [(b.turn, b.repeat) for _, b in both]
    assert len(both) == 4


def test_seconds_of_a_round_leave_out_answers_without_rounds() -> None:
    silent = generation(num_new_tokens=9, decode_s=50.0)
    drafted = [generation(accepted=[1, 2], decode_s=s) for s in (3.0, 5.0)]
    assert metrics.seconds_per_round([silent, *drafted]) == 8.0 / 4


def test_only_the_times_of_one_process_a_host_count() -> None:
    """The second process's answers take nine times as long, and are part of τ alone."""

    def side(first_s: float, accepted: list[int]) -> list[Generation]:
        shared: dict[str, Any] = {"accepted": accepted, "num_processes": 2, "prefill_s": 0.5}
        return [
            generation(prompt_id="0", decode_s=first_s, **shared),
            generation(prompt_id="1", decode_s=9.0, process=1, **shared),
        ]

    slow, fast = side(4.0, [1, 1]), side(2.0, [3])
    assert metrics.tokens_per_s(fast) == 4 / 2
    assert metrics.seconds_per_round(slow) == 4 / 2
    assert metrics.speedup(slow, fast) == 2.0
    assert metrics.speedup_end_to_end(slow, fast) == 4.5 / 2.5
    assert metrics.tau([*fast, slow[1]]) == (4 + 4 + 2 + 2) / 4


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=5), st.floats(0.1, 10))
def test_speedup_scales_with_time_and_inverts(seconds: list[float], factor: float) -> None:
    slow = [generation(accepted=[3], prompt_id=str(i), decode_s=s) for i, s in enumerate(seconds)]
    fast = [
        generation(accepted=[3], prompt_id=str(i), decode_s=s / factor)
        for i, s in enumerate(seconds)
    ]
    assert metrics.speedup(slow, fast) == pytest.approx(factor)
    assert metrics.speedup(fast, slow) == pytest.approx(1 / factor)


def test_the_headline_baseline_is_the_fastest() -> None:
    slow = [generation(num_new_tokens=11, decode_s=2.0)]
    fast = [generation(num_new_tokens=11, decode_s=1.0)]
    assert metrics.headline_baseline({"ar_loop": [slow], "hf_generate": [fast]}) == "hf_generate"
    wider = [*slow, generation(task="mbpp", num_new_tokens=11, decode_s=2.0)]
    assert metrics.headline_baseline({"ar_loop": [wider], "hf_generate": [fast]}) == "ar_loop"


def test_the_headline_baseline_of_several_runs_is_one() -> None:
    """Faster over both runs, though slower in one; and where it is missing it is not taken."""

    def took(seconds: float) -> list[Generation]:
        return [generation(num_new_tokens=11, decode_s=seconds)]

    both = {"ar_loop": [took(10.0), took(10.0)], "hf_generate": [took(12.0), took(7.0)]}
    assert metrics.headline_baseline(both) == "hf_generate"
    assert metrics.headline_baseline({**both, "hf_generate": [[], took(7.0)]}) == "ar_loop"
    with pytest.raises(NoData):
        metrics.headline_baseline({"ar_loop": [[], []]})


def test_peak_memory_is_the_largest_measured() -> None:
    unknown = generation(accepted=[1])
    assert metrics.peak_memory_bytes([unknown]) is None
    some = [generation(accepted=[1], peak_memory_bytes=size) for size in (5, 9, 7)]
    assert metrics.peak_memory_bytes([unknown, *some]) == 9


def test_overall_values() -> None:
    assert metrics.overall_mean([1.0, 3.0]) == 2.0
    assert metrics.overall_geometric_mean([1.0, 4.0]) == pytest.approx(2.0)
    for rule in (metrics.overall_mean, metrics.overall_geometric_mean):
        with pytest.raises(NoData):
            rule([1.0, None])
        with pytest.raises(NoData):
            rule([])


@pytest.mark.parametrize(
    "rule",
    [
        metrics.tau,
        metrics.tau_macro,
        metrics.node_acceptance_rate,
        metrics.tokens_per_s,
    ],
)
def test_empty_input_raises(rule: object) -> None:
    assert callable(rule)
    with pytest.raises(ValueError):
        rule([])


def test_nothing_drafted_has_no_acceptance_rate() -> None:
    with pytest.raises(NoData):
        metrics.node_acceptance_rate([generation(accepted=[0, 0], depth=0)])


def test_intervals_hold_the_value_and_repeat_themselves() -> None:
    lists = [[i % 5, (i * 3) % 7] for i in range(20)]
    fast = answers(lists)
    slow = [
        generation(accepted=[0] * 8, depth=0, prompt_id=str(i), decode_s=2.0 + i % 3)
        for i in range(20)
    ]
    low, high = bootstrap.tau_interval([fast])
    assert low < metrics.tau(fast) < high
    assert bootstrap.tau_interval([fast]) == (low, high)
    low, high = bootstrap.speedup_interval([(slow, fast)])
    assert low < metrics.speedup(slow, fast) < high


def test_intervals_shrink_over_independent_tasks() -> None:
    made = answers([[i % 5, (i * 3) % 7] for i in range(40)])
    one, four = (bootstrap.tau_interval([made] * n) for n in (1, 4))
    assert 0.3 < (four[1] - four[0]) / (one[1] - one[0]) < 0.7


def test_few_conversations_have_no_interval() -> None:
    few = answers([[1]] * (bootstrap.MIN_CONVERSATIONS - 1))
    with pytest.raises(NoData):
        bootstrap.tau_interval([few])
    repeats = [generation(accepted=[1], repeat=i) for i in range(50)]
    with pytest.raises(NoData):
        bootstrap.tau_interval([repeats])


def test_no_interval_where_a_resample_decodes_nothing() -> None:
    silent = [generation(accepted=[], prompt_id=str(i), decode_s=0.0) for i in range(6)]
    with pytest.raises(NoData):
        bootstrap.speedup_interval([(silent, silent)])


def test_scripted_rounds_are_what_they_say() -> None:
    assert [item.committed for item in rounds([2, 3], 7, cut=1)] == [3, 3]
    assert math.isclose(metrics.tau([generation(accepted=[2, 3], cut=1)]), 3.0)


def test_tau_difference_is_of_answers_that_both_sides_drafted() -> None:
    first = [*answers([[3, 1], [0]]), generation(accepted=[7], prompt_id="only here")]
    second = [*answers([[3, 3], [2]]), generation(accepted=[], prompt_id="only here")]
    assert metrics.tau_difference(first, second) == pytest.approx((4 + 4 + 3) / 3 - (4 + 2 + 1) / 3)
    assert metrics.tau_difference(second, first) == -metrics.tau_difference(first, second)
    with pytest.raises(NoData):
        metrics.tau_difference(first, [])
    with pytest.raises(NoData):
        metrics.tau_difference(first, [generation(num_new_tokens=9)])


def test_speedup_change_by_hand() -> None:
    def side(seconds: float) -> list[Generation]:
        return [generation(accepted=[4, 4], decode_s=seconds)]

    before, after = (side(8.0), side(4.0)), (side(9.0), side(3.0))
    assert metrics.speedup_change(before, after) == pytest.approx(1.5)
    assert metrics.speedup_change(before, before) == 1.0


def test_tau_change_by_hand() -> None:
    """The second method gains 2 - 1 on one drafter and 4 - 2 on the other."""
    ones, twos, fours = answers([[0, 0]]), answers([[1, 1]]), answers([[3, 3]])
    assert metrics.tau_change((ones, twos), (twos, fours)) == 1
    assert metrics.tau_change((twos, fours), (ones, twos)) == -1
    with pytest.raises(NoData):
        metrics.tau_change((ones, []), (twos, fours))


def many(num: int, seed: int, factor: float = 1.0) -> list[Generation]:
    """Conversations of uneven length and speed; other seeds have other acceptance."""
    draw = random.Random(seed)
    made = []
    for i in range(num):
        accepted = [draw.randint(0, DEPTH) for _ in range(draw.randint(2, 9))]
        seconds = factor * len(accepted) * draw.uniform(0.8, 1.2)
        made.append(generation(accepted=accepted, prompt_id=str(i), decode_s=seconds))
    return made


def test_differences_with_themselves_are_none() -> None:
    one, other = many(20, 0), many(20, 1)
    tau = paired.tau_difference([(one, one)])
    assert (tau.value, tau.low, tau.high) == (0, 0, 0) and not tau.excludes(0)
    same = paired.speedup_change([((one, other), (one, other))])
    assert (same.value, same.low, same.high) == (1, 1, 1) and not same.excludes(1)


def test_a_gain_that_is_the_same_twice_is_no_change() -> None:
    """However much it varies over prompts: both gains see the same draws."""
    one, other = many(20, 0), many(20, 1)
    same = paired.tau_change([((one, other), (one, other))])
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_a_gain_over_no_gain_changes_by_itself() -> None:
    tasks = [(many(num, seed), many(num, seed + 1)) for num, seed in ((20, 0), (15, 2))]
    alone = paired.tau_difference(tasks)
    assert alone.has_interval
    assert paired.tau_change([((one, one), (one, other)) for one, other in tasks]) == alone


def test_gains_on_different_conversations_have_no_interval() -> None:
    one, other = many(20, 0), many(20, 1)
    found = paired.tau_change([((one[:15], other), (one, other))])
    assert found.value == pytest.approx(metrics.tau_change((one[:15], other), (one, other)))
    assert not found.has_interval


def test_swapping_sides_turns_a_difference_around() -> None:
    one, other = many(20, 0), many(20, 1)
    there, back = (paired.tau_difference([sides]) for sides in ((one, other), (other, one)))
    assert there.value == -(back.value or 0)
    assert (there.low, there.high) == pytest.approx((-(back.high or 0), -(back.low or 0)))
    there, back = (paired.speedup([sides]) for sides in ((one, other), (other, one)))
    assert (there.low or 0) * (back.high or 0) == pytest.approx(1)


def test_pairing_narrows_an_interval() -> None:
    """Prompts differ a lot and methods little: what pairing is for."""
    draw = random.Random(3)
    one = many(30, 0)
    other = [
        generation(
            accepted=[item.accepted for item in one_.rounds or ()],
            prompt_id=one_.prompt_id,
            decode_s=one_.decode_s * draw.uniform(0.94, 0.96),
        )
        for one_ in one
    ]
    found = paired.speedup([(one, other)])
    assert found.excludes(1) and found.value == pytest.approx(1 / 0.95, rel=0.01)
    assert (found.high or 9) - (found.low or 0) < 0.02


@given(st.randoms(use_true_random=False))
def test_intervals_do_not_depend_on_order(draw: random.Random) -> None:
    sides = [many(12, seed) for seed in range(4)]
    slow_a, fast_a, slow_b, fast_b = (draw.sample(side, len(side)) for side in sides)
    moved = paired.speedup_change([((slow_a, fast_a), (slow_b, fast_b))])
    still = paired.speedup_change([((sides[0], sides[1]), (sides[2], sides[3]))])
    assert (moved.low, moved.high) == pytest.approx((still.low, still.high), rel=1e-12)
    assert moved.value == pytest.approx(still.value, rel=1e-12)
    taus = [paired.tau_difference([pair]) for pair in ((slow_a, fast_a), (sides[0], sides[1]))]
    assert taus[0] == taus[1]


def test_a_conversation_counts_once_however_many_repeats_it_has() -> None:
    one, other = many(10, 0), many(10, 1)
    again = [
        [
            generation(
                accepted=[part.accepted for part in item.rounds or ()],
                prompt_id=item.prompt_id,
                decode_s=item.decode_s,
                repeat=repeat,
            )
            for item in side
            for repeat in range(5)
        ]
        for side in (one, other)
    ]
    assert paired.tau_difference([(again[0], again[1])]) == paired.tau_difference([(one, other)])


def coverage_of(truth: float, simulate: object) -> float:
    """Share of 300 synthetic data sets whose interval holds the truth."""
    assert callable(simulate)
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        found = simulate(generator)
        hits += found.low <= truth <= found.high
    return hits / 300


def test_intervals_of_speed_ratios_hold_the_truth_as_often_as_they_say() -> None:
    """Two tasks; prompts vary by 40 %, the ratio on a prompt by 20 %; the true ratio is 1.25."""

    def simulate(generator: np.random.Generator) -> paired.Estimate:
        tasks = []
        for task in ("gsm8k", "mbpp"):
            seconds = generator.lognormal(0, 0.4, 30)
            ratio = 1.25 * generator.lognormal(0, 0.2, 30)
            # Weighted by seconds the mean of 1 / ratio is its plain mean: both are independent.
            ratio *= math.exp(0.2**2 / 2)
            sides = [
                [
                    generation(num_new_tokens=11, task=task, prompt_id=str(i), decode_s=float(s))
                    for i, s in enumerate(times)
                ]
                for times in (seconds, seconds / ratio)
            ]
            tasks.append((sides[0], sides[1]))
        return paired.speedup(tasks)

    assert 0.90 <= coverage_of(1.25, simulate) <= 0.99


def test_intervals_of_tau_differences_hold_the_truth_as_often_as_they_say() -> None:
    """Conversations share an ease; the second method accepts half a token more a round."""

    def simulate(generator: np.random.Generator) -> paired.Estimate:
        ease = generator.uniform(0.3, 0.6, 30)
        sides = [
            [
                generation(
                    accepted=generator.binomial(5, chance + gain, 8).tolist(), prompt_id=str(i)
                )
                for i, chance in enumerate(ease)
            ]
            for gain in (0.0, 0.1)
        ]
        return paired.tau_difference([(sides[0], sides[1])])

    assert 0.90 <= coverage_of(0.5, simulate) <= 0.99
