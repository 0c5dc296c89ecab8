"""Study files: what they stand for, and the sentence for each that cannot be meant."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drafters.block_diffusion.objectives import OBJECTIVES, Objective
from harness import registry
from harness.errors import UserError
from harness.study import FACTORIAL, Arm, Recipe, row_facts
from harness.study_toml import read_study

STUDIES = Path(__file__).parent / "bench" / "studies"

WHOLE = """
[train]
target = "smollm2"
data = "corpus"
batch_size = 2
[arms]
objectives = ["uniform", "gamma7"]
seeds = [0, 1]
steps = [20, 10]
learning_rate = [1e-3, 3e-4]
[objectives.gamma7]
gamma = 7
[measure]
held_back = 6
horizons = [2, 8]
runs = ["runs/a"]
"""


def read(tmp_path: Path, text: str):
    path = tmp_path / "study.toml"
    path.write_text(text, encoding="utf-8")
    return read_study(path)


def test_every_combination_is_an_arm_small_budgets_first(tmp_path: Path) -> None:
    study = read(tmp_path, WHOLE)
    assert len(study.arms) == len(set(study.arms)) == 2 * 2 * 2 * 2
    assert [arm.recipe.steps for arm in study.arms] == [10] * 8 + [20] * 8
    assert [arm.recipe.objective for arm in study.arms[:2]] == ["uniform", "gamma7"]
    assert study.arms[0] == Arm(
        recipe=Recipe(objective="uniform", steps=10, block_size=6, learning_rate=1e-3), seed=0
    )
    assert study.objectives == {"uniform": OBJECTIVES["uniform"], "gamma7": Objective(gamma=7)}
    assert study.measure.runs == (Path("runs/a"),)
    config = study.config(study.arms[-1])
    assert (config.steps, config.seed, config.learning_rate) == (20, 1, 3e-4)
    assert (config.batch_size, config.data) == (2, Path("corpus"))


def test_an_arms_name_does_not_depend_on_the_others(tmp_path: Path) -> None:
    study = read(tmp_path, WHOLE)
    names = [study.name(arm) for arm in study.arms]
    assert len(set(names)) == len(names)
    assert names[0] == "uniform-seed0-steps10"
    assert names[-1] == "gamma7-seed1-steps20-lr0.0003"


def test_a_study_is_json_without_infinity(tmp_path: Path) -> None:
    body = read(tmp_path, WHOLE).describe()
    text = json.dumps(body, allow_nan=False)
    assert json.loads(text)["objectives"]["uniform"]["gamma"] is None
    assert row_facts(Objective(gamma=math.inf)) == row_facts(OBJECTIVES["uniform"])


def test_factorial_is_the_eight_rows(tmp_path: Path) -> None:
    study = read(tmp_path, '[arms]\nobjectives = ["factorial"]\nsteps = [5]\n')
    assert study.objectives == FACTORIAL and len(FACTORIAL) == 8
    on = {(row.gamma, row.alpha_focal, row.alpha_chain) for row in FACTORIAL.values()}
    assert on == {(g, f, c) for g in (math.inf, 10) for f in (0, 0.3) for c in (0, 40)}
    assert all(FACTORIAL[name] == OBJECTIVES[name] for name in FACTORIAL if name in OBJECTIVES)


def test_an_objective_of_a_plugin_is_an_arm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Objective(gamma=3, description="mine")
    monkeypatch.setitem(registry._PLUGINS["objectives"], "mine", mine)
    study = read(tmp_path, '[arms]\nobjectives = ["uniform", "mine"]\nsteps = [5]\n')
    assert study.objectives["mine"] == mine


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("batch_size = 2", "bach_size = 2"), r"train has no key 'bach_size'; did you mean batch"),
        (("batch_size = 2", 'batch_size = "2"'), "train.batch_size should be int"),
        (("batch_size = 2", "batch_size = 0"), "batch_size must be at least 1"),
        (("batch_size = 2", "steps = 7"), "train.steps differs between arms; write it as arms.st"),
        (("batch_size = 2", "output_dir = 'x'"), "write it as --output-dir"),
        (("batch_size = 2", "learning_rate = inf"), "learning_rate must be above 0, not inf"),
        (("batch_size = 2", "learning_rate = nan"), "train.learning_rate is no number"),
        (("[measure]", "[measures]"), r"the study has no key 'measures'; did you mean measure"),
        (('["uniform", "gamma7"]', "[]"), "arms.objectives is empty"),
        (('["uniform", "gamma7"]', '["uniform", "gamma7", "combind"]'), "did you mean combined"),
        (('["uniform", "gamma7"]', '["uniform"]'), "objectives.gamma7 is in no arm"),
        (("gamma = 7", "gama = 7"), r"objectives.gamma7 has no key 'gama'; did you mean gamma"),
        (("gamma = 7", "gamma = -7"), "gamma must be positive"),
        (("gamma = 7", "alpha_focal = nan"), "objectives.gamma7.alpha_focal is no number"),
        (("gamma = 7", ""), "objectives uniform and gamma7 are the same numbers"),
        (("[objectives.gamma7]", "[objectives.uniform]"), "always means its own numbers"),
        (("[objectives.gamma7]", "[objectives.'a/b']"), "is no name"),
        (("seeds = [0, 1]", "seeds = [0, 0]"), "arms.seeds holds 0 twice"),
        (("seeds = [0, 1]", "seeds = [-1]"), "arms.seeds must be at least 0"),
        (("seeds = [0, 1]", "seeds = 1"), "arms.seeds should be a list"),
        (("steps = [20, 10]", ""), "arms.steps is missing"),
        (("steps = [20, 10]", "steps = [0]"), "steps must be at least 1"),
        (("steps = [20, 10]", "steps = [1.5]"), r"arms.steps\[0\] should be int"),
        (("[1e-3, 3e-4]", "[0]"), "learning_rate must be above 0"),
        (("[1e-3, 3e-4]", "[1e-3]\nresponses = ['own']"), "should be one of target, reference"),
        (("held_back = 6", "held_back = 0"), "measure: held_back must be at least 1"),
        (("horizons = [2, 8]", "horizons = [1]"), "horizons are block sizes, 2 or more"),
        (("horizons = [2, 8]", "horizons = [2, 2]"), "horizons holds 2 twice"),
        (('runs = ["runs/a"]', "runs = 3"), "measure.runs should be a list"),
        (('data = "corpus"', "data = 3"), "train.data should be str"),
        (("[arms]", "[[arms]]"), "arms should be a table"),
        (("[train]", "[train"), "is not TOML"),
        (("gamma = 7", "gamma = 7\ngamma = 8"), "is not TOML"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(
    tmp_path: Path, change: tuple[str, str], words: str
) -> None:
    assert change[0] in WHOLE
    with pytest.raises(UserError, match=words) as raised:
        read(tmp_path, WHOLE.replace(*change, 1))
    assert str(raised.value).endswith((".", "?")) and "\n" not in str(raised.value)


def test_an_empty_file_is_told_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\[arms\] is missing; it lists objectives"):
        read(tmp_path, "")
    with pytest.raises(UserError, match="cannot be read"):
        read_study(tmp_path / "no.toml")
    (tmp_path / "latin.toml").write_bytes(b"# \xe9\n")
    with pytest.raises(UserError, match="is not TOML"):
        read_study(tmp_path / "latin.toml")


@given(st.text(max_size=60), st.integers(0, len(WHOLE)))
def test_a_damaged_file_is_read_or_refused_in_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, text: str, place: int
) -> None:
    path = tmp_path_factory.mktemp("study") / "study.toml"
    path.write_text(WHOLE[:place] + text + WHOLE[place:], encoding="utf-8", errors="replace")
    try:
        read_study(path)
    except UserError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_examples_can_be_read(path: Path) -> None:
    assert read_study(path).arms


def test_there_are_examples() -> None:
    names = {path.stem for path in STUDIES.glob("*.toml")}
    assert names >= {"budget", "factorial", "sweeps", "horizon", "responses"}
