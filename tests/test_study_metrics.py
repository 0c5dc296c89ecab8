"""Numbers of a study against examples worked by hand."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from harness import bootstrap
from harness import study_curves as curves_of
from harness import study_metrics as metrics
from harness.correlation import clustered_correlation
from harness.metrics import NoData
from harness.paired import Estimate
from harness.study import Arm, Recipe
from harness.study_metrics import ALL_THREE, SUM_OF_SINGLES, Tau, contrast, effects
from tests.study_directories import measurement, replayed


def arm(name: str = "uniform", seed: int = 0) -> Arm:
    recipe = Recipe(objective=name, steps=10, block_size=4, learning_rate=1e-3)
    return Arm(recipe=recipe, seed=seed)


def by_seed(*seeds: dict[str, list[int]]):
    """Measurements of one recipe: for each seed, by task, the τ of each prompt."""
    return {seed: measurement(arm(seed=seed), taus) for seed, taus in enumerate(seeds)}


def test_a_gain_that_is_the_same_everywhere_has_an_interval_of_no_width() -> None:
    two, three = {"a": [2] * 6}, {"a": [3] * 6}
    found = metrics.tau([by_seed(two, two, two), by_seed(three, three, three)], ["a"])
    gain = found.estimate(metrics.gain)
    assert (gain.value, gain.low, gain.high) == pytest.approx((0.5, 0.5, 0.5))
    assert (found.seeds, found.num_prompts) == ((0, 1, 2), 6)
    same = metrics.tau([by_seed(two), by_seed(two)], ["a"]).estimate(metrics.gain)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_tau_is_pooled_in_a_task_and_averaged_over_tasks_then_seeds() -> None:
    # 12 tokens an answer: τ 2 has 6 rounds, τ 3 has 4, so together 24 / 10.
    first = {"a": [2, 3], "b": [4]}
    second = {"a": [3, 3], "b": [2]}
    found = metrics.tau([by_seed(first, second)], ["a", "b"])
    assert found.by_seed.tolist() == [pytest.approx([(2.4 + 4) / 2, (3 + 2) / 2])]
    assert found.values.tolist() == pytest.approx([(3.2 + 2.5) / 2])
    assert found.num_prompts == 3


def test_the_gain_is_of_means_over_seeds_and_tasks() -> None:
    reference = by_seed({"a": [2] * 5}, {"a": [3] * 5})
    other = by_seed({"a": [3] * 5}, {"a": [4] * 5})
    found = metrics.tau([reference, other], ["a"])
    assert metrics.gain(found.values) == pytest.approx(3.5 / 2.5 - 1)
    assert metrics.difference(found.values) == pytest.approx(1)
    # The difference is the same with each seed, and they are drawn together.
    made = found.estimate(metrics.difference)
    assert (made.low, made.high) == pytest.approx((1, 1))
    assert found.estimate(metrics.gain).low < 0.4 < found.estimate(metrics.gain).high


def test_only_seeds_and_answers_that_all_have_are_compared() -> None:
    reference = by_seed({"a": [2, 2, 4]}, {"a": [2, 2, 4]}, {"a": [1, 1, 1]})
    other = by_seed({"a": [3, 3]}, {"a": [3, 3]})
    found = metrics.tau([reference, other], ["a"])
    assert found.values.tolist() == pytest.approx([2, 3])
    assert (found.seeds, found.num_prompts) == ((0, 1), 2)
    assert found.draws is None and not found.estimate(metrics.gain).has_interval
    for wrong in ([], [reference, {}], [reference, {7: other[0]}]):
        with pytest.raises(NoData):
            metrics.tau(wrong, ["a"])
    with pytest.raises(NoData, match="no answer of b"):
        metrics.tau([reference], ["b"])


def test_another_length_is_another_answer() -> None:
    one, same = (measurement(arm(), {"a": taus}) for taus in ([2, 2], [3, 3]))
    assert metrics.tau([{0: one}, {0: same}], ["a"]).num_prompts == 2
    shorter = (replayed("a", "p0", [2, 2]), *same.replayed[1:])
    other = dataclasses.replace(same, replayed=shorter)
    assert metrics.tau([{0: one}, {0: other}], ["a"]).num_prompts == 1


def test_an_answer_without_rounds_counts_nowhere() -> None:
    whole = measurement(arm(), {"a": [2, 2]})
    both = dataclasses.replace(whole, replayed=(*whole.replayed, replayed("a", "p9", [])))
    found = metrics.tau([{0: both}], ["a"])
    assert (found.values.tolist(), found.num_prompts) == ([2], 2)


def test_turns_of_a_conversation_are_one_prompt() -> None:
    second = dataclasses.replace(replayed("a", "p0", [3] * 3), turn=2)
    one = measurement(arm(), {"a": [2, 2]})
    found = metrics.tau([{0: dataclasses.replace(one, replayed=(*one.replayed, second))}], ["a"])
    # 12 tokens each: 6, 6 and 3 rounds.
    assert found.values.tolist() == pytest.approx([36 / 15])
    assert found.num_prompts == 2


def test_there_is_no_interval_where_one_task_has_too_few_prompts() -> None:
    found = metrics.tau([by_seed({"a": [2] * 5, "b": [3] * 4})], ["a", "b"])
    assert found.draws is None
    assert metrics.tau([by_seed({"a": [2] * 5, "b": [3] * 5})], ["a", "b"]).draws is not None


def test_tasks_and_seeds_are_drawn_apart() -> None:
    """Two tasks of the same answers: the mean of two draws varies half as much as one."""
    mixed = [2, 4] * 10
    one = metrics.tau([by_seed({"a": mixed})], ["a"]).draws
    two = metrics.tau([by_seed({"a": mixed, "b": mixed})], ["a", "b"]).draws
    assert one is not None and two is not None
    assert two.var() == pytest.approx(one.var() / 2, rel=0.15)
    prompts = bootstrap.draws(5, 0).astype(np.float64)
    assert abs(np.corrcoef(metrics.seed_weights(5)[:, 0], prompts[:, 0])[0, 1]) < 0.1


def test_weights_of_seeds_give_the_variance_of_their_mean() -> None:
    values = np.array([1.0, 2.0, 4.0])
    weights = metrics.seed_weights(3)
    assert np.allclose(weights.sum(1), 3)
    means = weights @ values / 3
    assert means.var() == pytest.approx(values.var(ddof=1) / 3, rel=0.06)
    assert (metrics.seed_weights(1) == 1).all()


def test_an_interval_covers_seeds_as_well_as_prompts() -> None:
    flat, mixed = {"a": [3] * 40}, {"a": [2, 4] * 20}
    one = metrics.tau([by_seed(mixed)], ["a"]).estimate(lambda t: t[..., 0])
    seeds = [{"a": [k] * 40} for k in (2, 3, 4)]
    many = metrics.tau([by_seed(*seeds)], ["a"]).estimate(lambda t: t[..., 0])
    none = metrics.tau([by_seed(flat)], ["a"]).estimate(lambda t: t[..., 0])
    assert none.low == none.high == 3
    assert one.low < 48 / 18 < one.high
    assert many.low < 2.2 and many.high > 3.8


def test_growth_is_that_of_a_doubling() -> None:
    assert metrics.growth(2.0, 2.2, 2) == pytest.approx(0.1)
    assert metrics.growth(2.0, 2.42, 4) == pytest.approx(0.1)
    assert metrics.growth(2.0, 2.1, 2**0.5) == pytest.approx(1.05**2 - 1)


def shown(taus: dict[int, float], half: float | None = 0.1) -> dict[int, Estimate]:
    """τ by budget, each with an interval of that half width, or with none."""
    return {
        steps: Estimate(
            value=tau, low=None if half is None else tau - half, high=half and tau + half
        )
        for steps, tau in taus.items()
    }


def test_the_headline_is_the_first_plateau_else_the_largest_budget() -> None:
    rising = {100: 2.0, 200: 2.2, 400: 2.4}
    assert metrics.headline(shown(rising)) == (400, False)
    assert metrics.headline(shown({**rising, 800: 2.43, 1600: 3.0})) == (800, True)
    assert metrics.headline(shown({100: 2.0})) == (100, False)
    # 2.5 % by four times the budget is less than 2 % a doubling.
    assert metrics.headline(shown({100: 2.0, 400: 2.05})) == (400, True)
    assert metrics.headline(shown({100: 2.0, 200: 1.9})) == (200, True)


def test_a_plateau_is_where_something_is_shown_to_be_accepted() -> None:
    assert metrics.headline(shown({100: 1.0, 200: 1.0, 400: 1.0}, half=0.0)) == (400, False)
    assert metrics.headline(shown({100: 1.05, 200: 1.06, 400: 1.3})) == (400, False)
    assert metrics.headline(shown({100: 1.11, 200: 1.12, 400: 1.3})) == (200, True)
    assert metrics.headline(shown({100: 2.0, 200: 2.0, 400: 2.0}, half=None)) == (400, False)


def eight(effect) -> Tau:
    """τ of the factorial's rows: ``effect`` of the three switches."""
    switches = [[bool(row >> bit & 1) for bit in range(3)] for row in range(8)]
    values = np.array([[effect(*row)] for row in switches], dtype=np.float64)
    return Tau(values, None, (0,), 10)


def test_main_effects_of_an_additive_factorial() -> None:
    found = eight(lambda g, f, c: 2 + 0.2 * g + 0.3 * f + 0.5 * c)
    values = {name: found.estimate(contrast(w)).value for name, w in effects().items()}
    assert values == {
        "positional": pytest.approx(0.2),
        "focal": pytest.approx(0.3),
        "chain": pytest.approx(0.5),
        "positional × focal": pytest.approx(0),
        "positional × chain": pytest.approx(0),
        "focal × chain": pytest.approx(0),
        "positional × focal × chain": pytest.approx(0),
    }
    assert found.estimate(contrast(SUM_OF_SINGLES)).value == pytest.approx(1.0)
    assert found.estimate(contrast(ALL_THREE)).value == pytest.approx(1.0)


def test_an_interaction_is_half_the_change_of_an_effect() -> None:
    found = eight(lambda g, f, c: 2 + 0.2 * g + 0.3 * f + 0.5 * c - 0.1 * (f and c))
    values = {name: found.estimate(contrast(w)).value for name, w in effects().items()}
    assert values["focal × chain"] == pytest.approx(-0.05)
    assert values["focal"] == pytest.approx(0.25)
    assert values["positional"] == pytest.approx(0.2)
    assert values["positional × focal × chain"] == pytest.approx(0)
    together = found.estimate(contrast(ALL_THREE - SUM_OF_SINGLES)).value
    assert together == pytest.approx(-0.1)


def test_effects_are_orthogonal_and_blind_to_the_level() -> None:
    for first, second in itertools.combinations(effects().values(), 2):
        assert first @ second == 0
    assert all(weights.sum() == 0 for weights in (*effects().values(), ALL_THREE, SUM_OF_SINGLES))


def test_a_factorial_has_intervals_from_the_records() -> None:
    # τ 2 without chain reward and 3 with it, whatever else.
    recipes = [by_seed(*[{"a": [3 if row & 4 else 2] * 6}] * 2) for row in range(8)]
    found = metrics.tau(recipes, ["a"])
    chain = found.estimate(contrast(effects()["chain"]))
    assert (chain.value, chain.low, chain.high) == pytest.approx((1, 1, 1))
    rest = found.estimate(contrast(ALL_THREE - SUM_OF_SINGLES))
    assert (rest.value, rest.low, rest.high) == pytest.approx((0, 0, 0), abs=1e-12)


def test_a_curve_is_over_the_answers_of_every_point() -> None:
    points = [
        measurement(arm(), {"held_back": [2, 2]}, step=5, loss=3.0, train_time_tau=1.1),
        measurement(arm(), {"held_back": [3, 3, 1, 1], "gsm8k": [4]}, loss=2.0),
    ]
    first, second = curves_of.curve(points[::-1])
    assert (first.step, first.loss, first.train_time_tau) == (5, 3.0, 1.1)
    assert (first.tau, second.tau) == pytest.approx((2, 3))
    assert first.num_answers == second.num_answers == 2


def test_the_reward_is_held_against_what_was_accepted() -> None:
    taus = [1, 2, 3, 4] * 4
    rising = curves_of.reward_association([measurement(arm(), {"a": taus}, rewards=True)])
    assert (rising.num_pairs, rising.num_clusters) == (4 * (12 + 6 + 4 + 3), 16)
    assert rising.pearson.value == pytest.approx(0.999, abs=1e-3)
    assert 0 < rising.spearman.low < rising.spearman.value < rising.spearman.high < 1
    with pytest.raises(NoData):
        curves_of.reward_association([measurement(arm(), {"a": taus})])


def test_a_reward_of_nothing_counts_and_an_unknown_one_does_not() -> None:
    item = replayed("a", "p0", [0, 3, 1, 2], rewards=[0.0, 0.9, None, 0.5])
    other = replayed("b", "p0", [3, 3, 1, 1], rewards=[0.8, 1.0, 0.2, 0.1])
    found = dataclasses.replace(measurement(arm(), {"a": [2]}), replayed=(item, other))
    made = curves_of.reward_association([found])
    assert (made.num_pairs, made.num_clusters) == (7, 2)  # prompts of two tasks, of one name


def test_the_proxy_is_held_against_replayed_tau_over_trainings() -> None:
    def curves(*taus: int):
        return [
            curves_of.curve([measurement(arm(), {"held_back": [k]}, train_time_tau=1 + k * k / 10)])
            for k in taus
        ]

    found = curves_of.proxy_association(curves(1, 2, 3, 4, 2, 1))
    assert (found.num_pairs, found.num_clusters) == (6, 6)
    assert found.spearman.value == pytest.approx(1)
    assert 0.9 < found.pearson.value < 1
    few = curves_of.proxy_association(curves(1, 2, 3))
    assert few.spearman.value == pytest.approx(1) and not few.spearman.has_interval
    for wrong in ([], curves(1, 2), curves(2, 2, 2)):
        with pytest.raises(NoData):
            curves_of.proxy_association(wrong)


def test_points_without_the_proxy_are_left_out() -> None:
    points = [
        curves_of.curve([measurement(arm(), {"held_back": [k]}, train_time_tau=proxy)])
        for k, proxy in ((1, 1.1), (2, None), (2, 1.3), (3, 1.2))
    ]
    assert curves_of.proxy_association(points).num_pairs == 3


def test_an_association_has_the_intervals_of_its_own_coefficients() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=60)
    y = np.exp(3 * x) + draw.normal(size=60)
    clusters = np.repeat(np.arange(12), 5)
    found = curves_of.association(x.tolist(), y.tolist(), clusters.tolist())
    expected = clustered_correlation(x, y, clusters)
    for item, value, ends in (
        (found.spearman, expected.spearman, expected.spearman_interval),
        (found.pearson, expected.pearson, expected.pearson_interval),
    ):
        assert (item.value, item.low, item.high) == pytest.approx((value, *ends))
    for first, second in (([1.0, 2.0, 3.0], [5.0] * 3), ([5.0] * 3, [1.0, 2.0, 3.0])):
        with pytest.raises(NoData):
            curves_of.association(first, second, [0, 1, 2])


def test_pairs_of_one_cluster_are_drawn_together() -> None:
    x = [float(k % 10) for k in range(200)]
    y = [value + (k // 10) for k, value in enumerate(x)]
    alone = curves_of.association(x, y, list(range(200)))
    together = curves_of.association(x, y, [k // 10 for k in range(200)])
    assert alone.pearson.value == together.pearson.value
    assert (alone.num_clusters, together.num_clusters) == (200, 20)
    assert together.pearson.low != alone.pearson.low
