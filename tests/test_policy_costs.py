"""A policy that is no faster than its own chain: the line that says which cost loses."""

from __future__ import annotations

import json
from pathlib import Path

from test_policy_tables import Script, scripted_run

from harness.stages import Stages, StageTimes
from reports.render import leaderboard_text

LOSING: dict[str, Script] = {
    "combined": ([1] * 6, 6.0),
    "combined+ddtree:budget=64": ([2] * 4, 8.0),
}
"""τ 2 and 3; 2 and 1.5 tokens a second."""
START = "- No faster than its own chain: "


def times(draft_ms: float, verify_ms: float, commit_ms: float) -> StageTimes:
    parts = (draft_ms / 1e3, verify_ms / 1e3, commit_ms / 1e3)
    draft, verify, commit = ((part,) * 3 for part in parts)
    return StageTimes(draft_s=draft, verify_s=verify, commit_s=commit)


def lines(path: Path, **methods: StageTimes) -> list[str]:
    """Lines of the page about policies that do not pay."""
    if methods:
        named = {
            name.replace("tree", "combined+ddtree:budget=64"): t for name, t in methods.items()
        }
        stages = Stages(num_context_tokens=77, methods={"ar_loop": times(0, 9, 0), **named})
        (path / "stages.json").write_text(json.dumps(stages.to_json()))
    return [line for line in leaderboard_text([path]).splitlines() if line.startswith(START)]


def test_the_part_that_adds_most_seconds_to_a_token_is_named(tmp_path: Path) -> None:
    """A token's commit costs ten times as much, and that is less than what its verify adds."""
    path = scripted_run(tmp_path / "run", LOSING)
    assert lines(path, combined=times(4, 10, 0.1), tree=times(6, 45, 1.5)) == [
        f"{START}combined+ddtree:budget=64 decodes at 0.75× (0.75 to 0.75) the speed of combined, "
        "with τ 3.00 against 2.00; the cost that loses is verify: 45.0 ms a round against 10.0 "
        "behind 77 tokens of context, for each committed token 3.00× the chain's "
        "(commit 10.00×, draft 1.00×)."
    ]


def test_a_policy_that_pays_is_not_spoken_of(tmp_path: Path) -> None:
    scripts = {**LOSING, "combined+ddtree:budget=64": ([2] * 4, 5.0)}
    assert lines(scripted_run(tmp_path / "run", scripts)) == []


def test_a_policy_as_fast_as_its_chain_does_not_pay(tmp_path: Path) -> None:
    scripts = {**LOSING, "combined+ddtree:budget=64": ([2] * 4, 6.0)}
    (line,) = lines(scripted_run(tmp_path / "run", scripts))
    assert "decodes at 1.00× (1.00 to 1.00) the speed of combined" in line


def test_untimed_parts_are_said(tmp_path: Path) -> None:
    path = scripted_run(tmp_path / "run", LOSING)
    end = "the parts of their rounds were not timed, so the cost that loses is not known."
    (line,) = lines(path)
    assert line.endswith(f"with τ 3.00 against 2.00; {end}")
    # A method that failed while parts were timed has none.
    (line,) = lines(path, combined=times(4, 10, 1))
    assert line.endswith(end)


def test_a_loss_that_no_part_shows_is_not_laid_on_one(tmp_path: Path) -> None:
    path = scripted_run(tmp_path / "run", LOSING)
    (line,) = lines(path, combined=times(4, 10, 1), tree=times(5, 12, 1.2))
    assert line.endswith(
        "none of the parts of a round that were timed apart costs more for each committed token "
        "than the chain's (commit 0.80×, draft 0.83×, verify 0.80×), so the loss lies between "
        "them, in the overhead."
    )


def test_only_policies_have_an_own_chain(tmp_path: Path) -> None:
    """A slow drafter, a slow second label, and a policy whose chain was not run."""
    scripts: dict[str, Script] = {
        "combined@a": ([1] * 6, 6.0),
        "combined@b": ([1] * 6, 9.0),
        "uniform+ddtree": ([1] * 6, 20.0),
    }
    assert lines(scripted_run(tmp_path / "run", scripts)) == []
