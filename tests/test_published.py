from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_directories import answers, generation

from harness import metrics, published
from harness.metrics import NoData
from harness.records import Generation

accepted_lists = st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=12), min_size=1)


def test_uncut_by_hand() -> None:
    cut = [generation(accepted=[3, 5], cut=4), generation(accepted=[1], prompt_id="1")]
    assert published.tau_uncut(cut) == (4 + 6 + 2) / 3
    assert published.tau_macro_uncut(cut) == (5 + 2) / 2


@given(accepted_lists, st.integers(0, 3))
def test_uncut_is_never_below_cut(lists: list[list[int]], cut: int) -> None:
    made = answers(lists, cut)
    assert published.tau_macro_uncut(made) >= metrics.tau_macro(made) - 1e-12
    assert published.tau_uncut(made) >= metrics.tau(made) - 1e-12
    whole = answers(lists)
    assert published.tau_macro_uncut(whole) == pytest.approx(metrics.tau_macro(whole))
    assert published.tau_uncut(whole) == pytest.approx(metrics.tau(whole))


def sides() -> tuple[list[Generation], list[Generation]]:
    """One conversation of two turns, one of one; a prompt that only the baseline answered."""
    slow = [
        generation(num_new_tokens=10, decode_s=9.0, prefill_s=1.0),
        generation(num_new_tokens=5, decode_s=6.0, prefill_s=4.0, turn=2),
        generation(num_new_tokens=4, decode_s=3.0, prefill_s=1.0, prompt_id="1"),
        generation(num_new_tokens=4, decode_s=99.0, prompt_id="only here"),
    ]
    fast = [
        generation(num_new_tokens=10, decode_s=3.0, prefill_s=1.0),
        generation(num_new_tokens=5, decode_s=2.0, prefill_s=4.0, turn=2),
        generation(num_new_tokens=8, decode_s=3.0, prefill_s=1.0, prompt_id="1"),
    ]
    return slow, fast


def test_speedup_as_dflash_takes_it_by_hand() -> None:
    slow, fast = (9 / 10 + 6 / 5 + 3 / 4) / 3, (3 / 10 + 2 / 5 + 3 / 8) / 3
    assert published.speedup_dflash(*sides()) == pytest.approx(slow / fast)


def test_speedup_as_spec_bench_takes_it_by_hand() -> None:
    slow, fast = (15 / 20 + 4 / 4) / 2, (15 / 10 + 8 / 4) / 2
    assert published.speedup_spec_bench(*sides()) == pytest.approx(fast / slow)


def test_tasks_and_repeats_of_one_prompt_are_conversations_of_their_own() -> None:
    """10, 2 and 4 tokens a second each count once; pooled they would not have this mean."""
    seconds = {("gsm8k", 0): 1.0, ("gsm8k", 1): 5.0, ("mbpp", 0): 2.5}
    fast = [
        generation(num_new_tokens=10, task=task, repeat=repeat, decode_s=s, prefill_s=0.0)
        for (task, repeat), s in seconds.items()
    ]
    slow = [dataclasses.replace(fast[0], decode_s=10.0), *fast[1:]]
    assert published.speedup_spec_bench(slow, fast) == pytest.approx((10 + 2 + 4) / (1 + 2 + 4))


def test_one_conversation_without_time_is_no_speedup() -> None:
    timed = [generation(accepted=[1], prompt_id=str(i)) for i in range(2)]
    still = dataclasses.replace(timed[0], decode_s=0.0, prefill_s=0.0)
    with pytest.raises(NoData):
        published.speedup_spec_bench(timed, [still, timed[1]])


def test_no_prompt_in_common_or_no_time_is_no_speedup() -> None:
    one, other = generation(accepted=[1]), generation(accepted=[1], prompt_id="other")
    still = [generation(accepted=[1], decode_s=0.0, prefill_s=0.0)]
    for rule in (published.speedup_dflash, published.speedup_spec_bench):
        for first, second in (([one], [other]), (still, still)):
            with pytest.raises(NoData):
                rule(first, second)
