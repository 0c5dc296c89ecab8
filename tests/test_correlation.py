"""Correlations of clustered pairs against scipy, and against resamples written out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from harness import correlation
from harness.correlation import clustered_correlation
from harness.metrics import NoData


def pairs(seed: int, num_clusters: int = 8):
    draw = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(num_clusters), draw.integers(2, 9, num_clusters))
    x = draw.random(len(clusters)).round(1)  # ties
    y = (3 * x + draw.normal(size=len(x))).round()
    return x, y, clusters


@pytest.mark.parametrize("seed", range(5))
def test_coefficients_are_scipys(seed):
    x, y, clusters = pairs(seed)
    found = clustered_correlation(x, y, clusters)
    assert found.pearson == pytest.approx(stats.pearsonr(x, y).statistic)
    assert found.spearman == pytest.approx(stats.spearmanr(x, y).statistic)
    assert (found.num_pairs, found.num_clusters) == (len(x), 8)


def test_a_resample_is_its_pairs_written_out():
    x, y, clusters = pairs(3)
    counts = np.array([0, 2, 1, 0, 3, 1, 0, 1])
    rows = np.concatenate(
        [np.flatnonzero(clusters == c) for c in range(8) for _ in range(counts[c])]
    )
    sides = [np.unique(side, return_inverse=True) for side in (x, y)]
    found = correlation._both(sides, counts[clusters])
    expected = (
        stats.pearsonr(x[rows], y[rows]).statistic,
        stats.spearmanr(x[rows], y[rows]).statistic,
    )
    assert found == pytest.approx(expected)


def test_the_interval_is_the_middle_of_the_resamples(monkeypatch):
    monkeypatch.setattr(correlation, "NUM_DRAWS", 50)
    x, y, clusters = pairs(4)
    shuffled = np.random.default_rng(1).permutation(len(x))
    found = clustered_correlation(x[shuffled], y[shuffled], clusters[shuffled] + 7)
    draws = np.random.default_rng(8).multinomial(8, [1 / 8] * 8, size=50)
    for rule, interval in (
        (stats.spearmanr, found.spearman_interval),
        (stats.pearsonr, found.pearson_interval),
    ):
        values = []
        for counts in draws:
            rows = np.repeat(np.arange(len(x)), counts[clusters])
            values.append(rule(x[rows], y[rows]).statistic)
        assert interval == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))


def test_the_interval_widens_where_pairs_of_a_cluster_are_alike():
    draw = np.random.default_rng(0)
    x = np.repeat(draw.normal(size=20), 30)
    y = np.repeat(draw.normal(size=20), 30) + x
    whole = clustered_correlation(x, y, np.repeat(np.arange(20), 30))
    apart = clustered_correlation(x, y, np.arange(600))
    assert whole.pearson == apart.pearson
    widths = [high - low for low, high in (whole.pearson_interval, apart.pearson_interval)]
    assert widths[0] > 3 * widths[1]
    low, high = whole.spearman_interval
    assert low < whole.spearman < high


@pytest.mark.parametrize(
    ("x", "y", "clusters"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], [0, 1, 2, 3]),
        ([0.1] * 9, range(9), range(9)),
        ([], [], []),
    ],
)
def test_too_little_to_say(x, y, clusters):
    with pytest.raises(NoData):
        clustered_correlation(list(x), list(y), list(clusters))


def test_four_sequences_are_too_few_whatever_they_hold():
    x = np.tile(np.arange(6.0), 5)
    clusters = np.repeat(np.arange(5), 6)
    assert clustered_correlation(x, x**2, clusters).num_clusters == 5
    with pytest.raises(NoData, match="at least 5 sequences"):
        clustered_correlation(x[:24], x[:24] ** 2, clusters[:24])
