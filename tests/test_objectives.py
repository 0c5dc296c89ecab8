"""Objectives against a plain float64 reference, finite differences and the paper's own limits."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drafters.block_diffusion import objectives
from drafters.block_diffusion.objectives import (
    EPSILON,
    FIVE,
    OBJECTIVES,
    Objective,
    dpace_weights,
    identity,
    objective_loss,
)
from tests.bench.candidates import OBJECTIVES as CANDIDATES

DEPTH = 7


def reference(log_p, correct, valid, row: Objective) -> float:
    """Eq. 7–13 and their relatives written out with loops, on Python floats."""
    w = [1.0 if math.isinf(row.gamma) else math.exp(-k / row.gamma) for k in range(DEPTH)]
    blocks = [n for n in range(len(log_p)) if valid[n][0]]
    ce = mass = focal = focal_mass = reward = 0.0
    for n in range(len(log_p)):
        chain = [k for k in range(DEPTH) if all(valid[n][: k + 1])]
        wrong = [k for k in chain if not correct[n][k]]
        for k in range(DEPTH):
            weight = w[k] if valid[n][k] else 0.0
            if row.ce_until_error and (k not in chain or (wrong and k > wrong[0])):
                weight = 0.0
            if row.dpace_alpha is not None:
                weight *= sum(
                    math.prod(
                        (1 - row.dpace_alpha) * math.exp(log_p[n][i]) + row.dpace_alpha
                        for i in range(m + 1)
                    )
                    for m in chain
                    if m >= k
                )
            soft = float(soft_ce_of(torch.tensor(log_p[n][k], dtype=torch.float64)))
            ce += weight * ((1 - row.distill) * -log_p[n][k] + row.distill * soft)
            mass += weight
        if wrong:
            focal += w[wrong[0]] * -log_p[n][wrong[0]]
            focal_mass += w[wrong[0]]
        length = sum(math.exp(sum(log_p[n][: k + 1])) for k in chain)
        reward += length / DEPTH if row.reward == "mean" else math.log(1 + length)
    num_blocks = max(1, len(blocks))
    ce /= mass + EPSILON if row.ce_reduction == "weighted_mean" else num_blocks
    focal /= focal_mass + EPSILON
    return row.alpha_ce * ce + row.alpha_focal * focal - row.alpha_chain * reward / num_blocks


def soft_ce_of(log_p):
    """Some cross-entropy with a gradient of its own."""
    return 0.3 * log_p.square() + 0.1


def loss_of(log_p, correct, valid, row: Objective, reduce=identity):
    return objective_loss(log_p, correct, valid, row, reduce, soft_ce_of(log_p))


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
    **CANDIDATES,
    "sum": Objective(gamma=4, alpha_focal=0.5, alpha_chain=5, ce_reduction="block_sum"),
    "all": Objective(
        gamma=3,
        alpha_focal=0.5,
        alpha_chain=5,
        alpha_ce=0.7,
        dpace_alpha=0.2,
        ce_until_error=True,
        distill=0.3,
        reward="log",
    ),
}


@pytest.mark.parametrize("name", ROWS)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_value_equals_the_reference(name, seed):
    log_p, correct, valid = random_batch(seed)
    loss = loss_of(log_p, correct, valid, ROWS[name])
    expected = reference(log_p.tolist(), correct.tolist(), valid.tolist(), ROWS[name])
    assert float(loss.total) == pytest.approx(expected, abs=1e-9)
    assert 0 <= float(loss.chain_reward) <= (1 if ROWS[name].reward == "mean" else math.log(8))


@pytest.mark.parametrize("name", ROWS)
def test_gradient_equals_finite_differences(name, monkeypatch):
    log_p, correct, valid = random_batch(3)
    log_p.requires_grad_()
    # D-PACE's weights are constants to the gradient; finite differences would move them.
    weights, here = objectives.dpace_weights, log_p.detach().clone()
    monkeypatch.setattr(objectives, "dpace_weights", lambda _, *rest: weights(here, *rest))

    def total(x):
        return loss_of(x, correct, valid, ROWS[name]).total

    assert torch.autograd.gradcheck(total, (log_p,))


@pytest.mark.parametrize("name", ROWS)
@given(seed=st.integers(0, 10_000), cut=st.integers(0, 6))
@settings(max_examples=10, deadline=None)
def test_parts_of_a_batch_sum_to_the_whole(name, seed, cut):
    """What data-parallel training rests on: each part divides by the whole batch's sums."""
    log_p, correct, valid = random_batch(seed)
    log_p.requires_grad_()
    whole = loss_of(log_p, correct, valid, ROWS[name])
    (expected,) = torch.autograd.grad(whole.total, log_p)
    parts = [(x[:cut], x[cut:]) for x in (log_p, correct, valid)]
    denominators = []

    def remember(local):
        assert not local.requires_grad
        denominators.append(local)
        return local

    for part in zip(*parts, strict=True):
        loss_of(*part, ROWS[name], remember)
    total = sum(denominators)
    losses = [loss_of(*part, ROWS[name], lambda _: total) for part in zip(*parts, strict=True)]
    for field in fields(whole):
        values = [getattr(loss, field.name) for loss in losses]
        torch.testing.assert_close(sum(values), getattr(whole, field.name))
    (gradient,) = torch.autograd.grad(sum(loss.total for loss in losses), log_p)
    torch.testing.assert_close(gradient, expected)


def test_the_five_names_mean_the_published_numbers():
    rows = {name: (row.gamma, row.alpha_focal, row.alpha_chain) for name, row in FIVE.items()}
    assert rows == {
        "uniform": (math.inf, 0, 0),
        "positional": (10, 0, 0),
        "focal": (math.inf, 0.3, 0),
        "chain": (math.inf, 0, 40),
        "combined": (10, 0.3, 40),
    }
    plain = Objective()
    own = ("gamma", "alpha_focal", "alpha_chain", "description")
    for name in {field.name for field in fields(Objective)} - set(own):
        assert {getattr(row, name) for row in FIVE.values()} == {getattr(plain, name)}
    assert {name: OBJECTIVES[name] for name in FIVE} == FIVE


def gradient_of(row: Objective, log_p, correct, valid):
    x = log_p.clone().requires_grad_()
    objective_loss(x, correct, valid, row).total.backward()
    return x.grad


def test_dpace_is_the_chain_gradient_at_one_end_and_a_fixed_ramp_at_the_other():
    log_p, correct, valid = random_batch(4)
    row = Objective(dpace_alpha=0, ce_reduction="block_sum")
    valid = valid.cumprod(1).bool()
    chain = Objective(alpha_ce=0, alpha_chain=DEPTH)
    torch.testing.assert_close(
        gradient_of(row, log_p, correct, valid), gradient_of(chain, log_p, correct, valid)
    )
    everywhere = torch.ones_like(valid)
    ramp = torch.arange(DEPTH, 0, -1, dtype=torch.float64).expand_as(log_p)
    torch.testing.assert_close(dpace_weights(log_p, everywhere, 1), ramp)
    assert OBJECTIVES["dpace"].dpace_alpha == 0.5


def test_streak_is_the_sum_of_survival_and_nothing_else():
    log_p, _, _ = random_batch(6)
    everywhere = torch.ones(len(log_p), 15, dtype=torch.bool)
    log_p = torch.cat((log_p, log_p, log_p[:, :1]), dim=1)
    loss = objective_loss(log_p, everywhere, everywhere, OBJECTIVES["streak"])
    survival = log_p.cumsum(1).exp().sum(1)
    torch.testing.assert_close(loss.total, -survival.mean())


def test_the_log_reward_weighs_a_block_by_its_expected_length():
    log_p, correct, _ = random_batch(7)
    everywhere = torch.ones_like(correct)
    mean = gradient_of(Objective(alpha_ce=0, alpha_chain=DEPTH), log_p, correct, everywhere)
    log = gradient_of(
        Objective(alpha_ce=0, alpha_chain=1, reward="log"), log_p, correct, everywhere
    )
    length = 1 + log_p.cumsum(1).exp().sum(1, keepdim=True)
    torch.testing.assert_close(log * length, mean)


def test_nothing_is_learnt_behind_the_first_error():
    log_p, correct, valid = random_batch(5)
    valid[:] = True
    valid[3, 4] = False  # a label outside the vocabulary ends the chain as an error does
    correct[:] = True
    correct[1, 2] = correct[1, 5] = False
    gradient = gradient_of(Objective(ce_until_error=True), log_p, correct, valid)
    assert (gradient != 0).sum(1).tolist() == [7, 3, 7, 4, 7, 7]
    assert len(gradient[gradient != 0].unique()) == 1


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


def test_accepted_counts_leading_matches_up_to_the_end_of_the_labels():
    correct = torch.tensor([[1, 1, 0, 1], [1, 1, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]]).bool()
    valid = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1], [0, 1, 1, 1]]).bool()
    loss = objective_loss(torch.zeros(4, 4), correct, valid, Objective())
    assert float(loss.accepted) == pytest.approx((2 + 2 + 0) / 3)  # the last is no block


def test_a_batch_without_labels_has_loss_zero():
    nothing = torch.zeros(2, DEPTH, dtype=torch.bool)
    log_p = torch.zeros(2, DEPTH, requires_grad=True)
    loss = objective_loss(log_p, nothing, nothing, OBJECTIVES["combined"])
    loss.total.backward()
    assert loss.total.item() == 0
    assert not log_p.grad.any()


@pytest.mark.parametrize(
    "bad",
    [
        {"gamma": 0},
        {"alpha_focal": -1},
        {"alpha_ce": -1},
        {"alpha_ce": 0},
        {"dpace_alpha": 1.5},
        {"prefix_decay": 0},
        {"prefix_decay": 1.1},
        {"ce_reduction": "mean"},
        {"reward": "sum"},
    ],
)
def test_a_wrong_row_cannot_be_built(bad):
    with pytest.raises(ValueError):
        Objective(**bad)
