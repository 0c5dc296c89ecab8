"""Objectives against a plain float64 reference, finite differences and the paper's own limits."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drafters.block_diffusion.objectives import EPSILON, OBJECTIVES, Objective, objective_loss

DEPTH = 7


def reference(log_p, correct, valid, row: Objective) -> float:
    """Eq. 7–13 written out with loops, on Python floats."""
    w = [1.0 if math.isinf(row.gamma) else math.exp(-k / row.gamma) for k in range(DEPTH)]
    blocks = [n for n in range(len(log_p)) if valid[n][0]]
    ce = mass = block_ce = 0.0
    for n in range(len(log_p)):
        for k in range(DEPTH):
            if valid[n][k]:
                ce += w[k] * -log_p[n][k]
                mass += w[k]
    block_ce = ce / max(1, len(blocks))
    ce = ce / (mass + EPSILON) if row.ce_reduction == "weighted_mean" else block_ce
    focal = focal_mass = reward = 0.0
    for n in blocks:
        survival = 1.0
        for k in range(DEPTH):
            if not valid[n][k]:
                break
            survival *= math.exp(log_p[n][k])
            reward += survival / DEPTH
        for k in range(DEPTH):
            if not valid[n][k]:
                break
            if not correct[n][k]:
                focal += w[k] * -log_p[n][k]
                focal_mass += w[k]
                break
    focal /= focal_mass + EPSILON
    reward /= max(1, len(blocks))
    return ce + row.alpha_focal * focal - row.alpha_chain * reward


def random_batch(seed: int, num_blocks: int = 6):
    draw = torch.Generator().manual_seed(seed)
    log_p = -torch.rand(num_blocks, DEPTH, generator=draw, dtype=torch.float64) * 4
    correct = torch.rand(num_blocks, DEPTH, generator=draw) < 0.6
    lengths = torch.randint(0, DEPTH + 1, (num_blocks, 1), generator=draw)
    valid = torch.arange(DEPTH) < lengths
    holes = torch.rand(num_blocks, DEPTH, generator=draw) < 0.1
    return log_p, correct, valid & ~holes


ROWS = {
    **OBJECTIVES,
    "sum": Objective(gamma=4, alpha_focal=0.5, alpha_chain=5, ce_reduction="block_sum"),
}


@pytest.mark.parametrize("name", ROWS)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_value_equals_the_reference(name, seed):
    log_p, correct, valid = random_batch(seed)
    loss = objective_loss(log_p, correct, valid, ROWS[name])
    expected = reference(log_p.tolist(), correct.tolist(), valid.tolist(), ROWS[name])
    assert float(loss.total) == pytest.approx(expected, abs=1e-9)
    assert 0 <= float(loss.chain_reward) <= 1


@pytest.mark.parametrize("name", ROWS)
def test_gradient_equals_finite_differences(name):
    log_p, correct, valid = random_batch(3)
    log_p.requires_grad_()

    def total(x):
        return objective_loss(x, correct, valid, ROWS[name]).total

    assert torch.autograd.gradcheck(total, (log_p,))


def test_the_five_names_mean_the_published_numbers():
    rows = {name: (row.gamma, row.alpha_focal, row.alpha_chain) for name, row in OBJECTIVES.items()}
    assert rows == {
        "uniform": (math.inf, 0, 0),
        "positional": (10, 0, 0),
        "focal": (math.inf, 0.3, 0),
        "chain": (math.inf, 0, 40),
        "combined": (10, 0.3, 40),
    }
    assert {row.ce_reduction for row in OBJECTIVES.values()} == {"weighted_mean"}


def test_infinite_gamma_and_zero_alphas_are_equation_7():
    log_p, correct, valid = random_batch(1)
    loss = objective_loss(log_p, correct, valid, Objective())
    assert float(loss.total) == pytest.approx(float(-log_p[valid].mean()), rel=1e-5)
    literal = objective_loss(log_p, correct, valid, Objective(ce_reduction="block_sum"))
    blocks = int(valid[:, 0].sum())
    assert float(literal.total) == pytest.approx(float(-log_p[valid].sum()) / blocks)


def test_large_gamma_approaches_uniform_and_small_gamma_keeps_the_first_offset():
    log_p, correct, valid = random_batch(2)
    valid[:, 0] = True
    wide = objective_loss(log_p, correct, valid, Objective(gamma=1e9)).total
    assert float(wide) == pytest.approx(
        float(objective_loss(log_p, correct, valid, Objective()).total), rel=1e-6
    )
    narrow = objective_loss(log_p, correct, valid, Objective(gamma=1e-3)).total
    assert float(narrow) == pytest.approx(float(-log_p[:, 0].mean()), rel=1e-5)


def test_first_weight_is_one():
    weights = Objective(gamma=10).weights(15)
    assert weights[0] == 1
    assert float(weights.sum()) == pytest.approx(8.164, abs=1e-3)


def test_chain_gradient_is_the_tail_sum_of_survival():
    log_p = (-torch.rand(1, DEPTH, dtype=torch.float64)).requires_grad_()
    everywhere = torch.ones(1, DEPTH, dtype=torch.bool)
    objective_loss(log_p, everywhere, everywhere, Objective()).chain_reward.backward()
    survival = log_p.detach().cumsum(1).exp()[0]
    tails = torch.stack([survival[k:].sum() for k in range(DEPTH)]) / DEPTH
    torch.testing.assert_close(log_p.grad[0], tails)


def test_chain_reward_is_one_only_for_certainty():
    everywhere = torch.ones(2, DEPTH, dtype=torch.bool)
    sure = torch.zeros(2, DEPTH, dtype=torch.float64)
    assert float(objective_loss(sure, everywhere, everywhere, Objective()).chain_reward) == 1
    sure[1, 3] = -0.1
    assert float(objective_loss(sure, everywhere, everywhere, Objective()).chain_reward) < 1


def test_focal_gradient_touches_the_first_mismatch_only():
    log_p, correct, valid = random_batch(5)
    valid[:] = True
    correct[0] = True  # a block without a mismatch contributes nothing
    correct[1] = torch.tensor([1, 1, 0, 1, 0, 1, 1], dtype=torch.bool)
    log_p.requires_grad_()
    objective_loss(log_p, correct, valid, Objective()).first_error.backward()
    assert not log_p.grad[0].any()
    assert log_p.grad[1].nonzero()[:, 0].tolist() == [2]


def test_all_right_has_no_focal_term_and_full_accepted_length():
    everywhere = torch.ones(3, DEPTH, dtype=torch.bool)
    log_p = torch.full((3, DEPTH), -0.5)
    loss = objective_loss(log_p, everywhere, everywhere, OBJECTIVES["focal"])
    assert float(loss.first_error) == 0
    assert float(loss.accepted) == DEPTH


def test_a_batch_without_labels_has_loss_zero():
    nothing = torch.zeros(2, DEPTH, dtype=torch.bool)
    log_p = torch.zeros(2, DEPTH, requires_grad=True)
    loss = objective_loss(log_p, nothing, nothing, OBJECTIVES["combined"])
    loss.total.backward()
    assert loss.total.item() == 0
    assert not log_p.grad.any()


@pytest.mark.parametrize("bad", [{"gamma": 0}, {"alpha_focal": -1}, {"ce_reduction": "mean"}])
def test_a_wrong_row_cannot_be_built(bad):
    with pytest.raises(ValueError):
        Objective(**bad)
