"""The report of a study: what it says of known records, and that it needs them alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.errors import UserError
from harness.study import Arm
from harness.study_files import StudyFiles
from reports.study_page import write_study as report
from tests.study_directories import write_study

Taus = Callable[[Arm], Mapping[str, Sequence[int]]]

BUDGETS = """
[train]
block_size = 4
[arms]
objectives = ["uniform", "combined"]
seeds = [0, 1]
steps = [10, 20, 40]
[measure]
runs = ["runs/x"]
"""


def by_budget(arm: Arm) -> dict[str, list[int]]:
    """uniform: 1, 2, 2 by budget; combined one more; tasks a and b."""
    tau = {10: 1, 20: 2, 40: 2}[arm.recipe.steps] + (arm.recipe.objective != "uniform")
    return {"held_back": [tau] * 6, "gsm8k": [tau] * 6, "mbpp": [4] * 6}


def pages(directory: Path) -> tuple[str, str]:
    markdown, html = report(directory, directory)
    return markdown.read_text(encoding="utf-8"), html.read_text(encoding="utf-8")


def table(markdown: str, title: str) -> list[dict[str, str]]:
    """Rows of the table under a heading."""
    part = markdown.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def test_gain_against_budget(tmp_path: Path) -> None:
    markdown, html = pages(write_study(tmp_path / "s", BUDGETS, by_budget).directory)
    rows = table(markdown, "Gain over uniform against budget")
    assert [(row["Objective"], row["Steps"]) for row in rows] == [
        ("combined", "10"),
        ("combined", "20"),
        ("combined", "40"),
    ]
    last = rows[-1]
    assert last["gain held back, %"] == "+50.0 (+50.0 to +50.0)"
    assert last["gain gsm8k, %"] == "+50.0 (+50.0 to +50.0)"
    assert last["gain mbpp, %"] == "0.0 (0.0 to 0.0)"
    # Ratio of the means over tasks: (3 + 4) / (2 + 4).
    assert last["gain overall, %"] == "+16.7 (+16.7 to +16.7)"
    assert (last["Seeds"], last["prompts held back"], last["prompts of tasks"]) == ("2", "6", "12")
    budget = table(markdown, "The reference against its budget")
    assert [row["growth a doubling, %"] for row in budget] == ["–", "+100.0", "0.0"]
    assert [row["Headline"] for row in budget] == ["", "", "headline (plateau)"]
    reason = "the first where a doubling gained less than 2 %"
    assert f"Headline budget of uniform: 40 steps, {reason}." in markdown
    assert "There combined gains most: +16.7 % in replayed τ" in markdown
    assert "overall (2 seeds, 12 prompts)" in markdown
    assert "+16.7 %" in html and "not decoded" in html


def lead_of(directory: Path) -> str:
    """The paragraph under the title."""
    return pages(directory)[0].split("\n\n")[1]


def test_where_nothing_is_accepted_there_is_neither_plateau_nor_gain(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", BUDGETS, lambda arm: {"held_back": [1] * 6})
    assert lead_of(study.directory) == (
        "Headline budget of uniform: 40 steps, the largest measured; its τ is not shown to be "
        "above 1. There no objective is shown to gain in replayed τ over uniform, held back "
        "(2 seeds, 6 prompts)."
    )
    budget = table(pages(study.directory)[0], "The reference against its budget")
    assert [row["Headline"] for row in budget] == ["", "", "headline (largest)"]


def test_too_few_prompts_show_no_gain_and_speak_of_no_intervals(tmp_path: Path) -> None:
    study = write_study(
        tmp_path / "s",
        BUDGETS,
        lambda arm: {"held_back": [2 + (arm.recipe.objective == "combined")] * 4},
    )
    markdown, _ = pages(study.directory)
    assert "Too few prompts to show a gain over uniform, held back (2 seeds, 4 prompts)" in markdown
    assert "gains most" not in markdown and "plateau)" not in markdown
    assert "Intervals are 95 %" not in markdown.split("## Definitions")[0]


def test_a_gain_whose_interval_holds_nothing_is_named_for_no_objective(tmp_path: Path) -> None:
    def taus(arm: Arm) -> dict[str, list[int]]:
        return {"held_back": [1, 2, 3, 2, 3, 4 if arm.recipe.objective == "combined" else 3]}

    text = lead_of(write_study(tmp_path / "s", BUDGETS, taus).directory)
    assert "There no objective is shown to gain" in text and "combined" not in text


def test_objectives_that_no_interval_tells_apart_are_named_beside_the_first(tmp_path: Path) -> None:
    asked = BUDGETS.replace('"combined"]', '"combined", "chain", "focal"]')
    more = {"uniform": 0, "combined": 2, "chain": 2, "focal": 1}

    def taus(arm: Arm) -> dict[str, list[int]]:
        return {"held_back": [1 + more[arm.recipe.objective]] * 6}

    text = lead_of(write_study(tmp_path / "s", asked, taus).directory)
    assert "There combined gains +200.0 % in replayed τ (+200.0 to +200.0)" in text
    assert text.endswith("Not shown to gain less: chain.")


def test_other_tables_of_the_headline_budget(tmp_path: Path) -> None:
    markdown, _ = pages(write_study(tmp_path / "s", BUDGETS, by_budget).directory)
    taus = table(markdown, "Replayed τ")
    assert taus[-1]["τ overall"] == "3.50 ± 0.00" and len(taus) == 6
    joint = table(markdown, "Joint acceptance J(k)")
    # uniform on gsm8k: 6 rounds an answer that accept 1; mbpp: 3 that accept 3.
    assert joint[0]["Rounds"] == str(2 * 6 * (6 + 3))
    assert [joint[0][f"k = {k}"] for k in (1, 2, 3)] == ["100.0", "33.3", "33.3"]
    waste = table(markdown, "Correct draft tokens thrown away")
    assert (waste[0]["waste %"], waste[0]["accept %"]) == ("0.0", "75.0")
    curves = table(markdown, "Learning curves")
    assert [row["Step"] for row in curves] == ["20", "40"] * 2
    assert (curves[0]["Training loss"], curves[1]["Training loss"]) == ("2.00", "1.00")
    assert curves[0]["Answers replayed"] == "4"
    correlation = table(markdown, "Do the proxies follow what is verified?")
    assert {row["In"] for row in correlation} >= {"all points of all trainings"}
    pairs = {row["Of"] for row in correlation}
    assert pairs == {"chain reward, draft tokens accepted", "train-time τ, replayed τ"}
    assert all(f"**{pair[0].upper()}{pair[1:]}" in markdown for pair in pairs)  # is defined
    arms = table(markdown, "Trainings")
    assert len(arms) == 12 and arms[0]["Checkpoint"] == "checkpoints/uniform-seed0-steps10"
    for absent in ("Factorial", "Sweep of", "Horizon in use", "Responses trained on"):
        assert absent not in markdown


def test_samples_never_pass_for_the_benchmark(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", BUDGETS, by_budget, "samples")
    markdown, html = pages(study.directory)
    row = table(markdown, "Gain over uniform against budget")[0]
    assert {"gain overall (samples), %", "gain gsm8k (samples), %"} <= set(row)
    assert "gain held back, %" in row
    assert "overall (samples) (2 seeds, 12 prompts)" in markdown
    assert "must not be quoted under its name" in markdown and "gsm8k (samples)" in html
    for title in ("Joint acceptance J(k)", "Correct draft tokens thrown away"):
        assert "tasks (samples)" in markdown.split(f"## {title}\n")[1].split("\n## ")[0]
    assert "(samples)" not in pages(write_study(tmp_path / "t", BUDGETS, by_budget).directory)[0]


FACTORIAL = """
[train]
block_size = 4
[arms]
objectives = ["factorial"]
seeds = [0, 1, 2]
steps = [10]
"""


def test_factorial(tmp_path: Path) -> None:
    def taus(arm: Arm) -> dict[str, list[int]]:
        """Positional weights and focal add nothing once the other is there."""
        name = arm.recipe.objective
        either = any(word in name for word in ("positional", "focal", "combined"))
        chain = "chain" in name or name == "combined"
        return {"held_back": [1 + either + chain] * 6}

    markdown, _ = pages(write_study(tmp_path / "s", FACTORIAL, taus).directory)
    effects = {
        row["Effect"]: row for row in table(markdown, "Factorial: main effects and interactions")
    }
    assert effects["chain"]["Δτ held back, estimate"] == "+1.00 (1.00 to 1.00)"
    assert effects["positional"]["Δτ held back, estimate"] == "+0.50 (0.50 to 0.50)"
    assert effects["positional × focal"]["Δτ held back, estimate"] == "−0.50 (−0.50 to −0.50)"
    assert effects["chain"]["Δτ held back, over seeds"] == "1.00 ± 0.00"
    gains = {row["Gain of"]: row for row in table(markdown, "Do the gains add up?")}
    assert gains["sum of the three"]["held back: Δτ"] == "+3.00 (3.00 to 3.00)"
    assert gains["all three together"]["held back: Δτ"] == "+2.00 (2.00 to 2.00)"
    assert gains["together less the sum"]["held back: Δτ"] == "−1.00 (−1.00 to −1.00)"
    assert gains["all three together"]["held back: % of uniform"] == "+200.0"
    assert "Held back: +2.00 together against +3.00 in sum, less than additive." in markdown


SWEEPS = """
[train]
block_size = 4
[arms]
objectives = ["uniform", "steep", "steeper", "sum"]
steps = [10]
block_size = [4, 8]
[objectives]
steep = { gamma = 10.0 }
steeper = { gamma = 5 }
sum = { gamma = 5, ce_reduction = "block_sum" }
[measure]
horizons = [8]
"""


def test_sweeps_and_horizons(tmp_path: Path) -> None:
    order = {"uniform": 1, "steep": 2, "steeper": 3, "sum": 2}

    def taus(arm: Arm) -> dict[str, list[int]]:
        return {"held_back": [order[arm.recipe.objective]] * 6}

    study = write_study(tmp_path / "s", SWEEPS, taus)
    markdown, _ = pages(study.directory)
    gamma = table(markdown, "Sweep of gamma")
    assert [(row["Value"], row["Objective"]) for row in gamma] == [
        ("5", "steeper"),
        ("10", "steep"),
        ("∞", "uniform"),
    ]
    assert [row["held back: τ"] for row in gamma] == ["3.00", "2.00", "1.00"]
    assert gamma[1]["held back: gain, %"] == "−33.3 (−33.3 to −33.3)"
    reduction = table(markdown, "Sweep of ce_reduction")
    assert [row["Value"] for row in reduction] == ["block_sum", "weighted_mean"]
    size = table(markdown, "Sweep of block_size")
    assert [row["Value"] for row in size] == ["4", "8"] * 4
    horizon = table(markdown, "Horizon in use")
    assert horizon[0]["block 4"] == horizon[0]["block 8"] == "1.00"
    assert "Tables that do not sweep block_size show block_size 4." in markdown
    assert "One training seed" in markdown


def test_responses(tmp_path: Path) -> None:
    text = """
[train]
block_size = 4
[arms]
objectives = ["uniform"]
steps = [10]
responses = ["target", "reference"]
"""
    study = write_study(
        tmp_path / "s",
        text,
        lambda arm: {"held_back": [2 + (arm.recipe.responses == "target")] * 5},
    )
    (row,) = table(pages(study.directory)[0], "Responses trained on")
    assert (row["τ, reference"], row["τ, target"]) == ("2.00", "3.00")
    assert row["Gain, %"] == "+50.0 (+50.0 to +50.0)"


def forbidding(*modules: str) -> str:
    return f"""
import sys
class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {modules!r}:
            raise ImportError(f"{{name}} is not installed here")
sys.meta_path.insert(0, Forbid())
"""


def test_a_report_needs_no_torch_and_no_matplotlib(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", BUDGETS, by_budget).directory
    script = forbidding("torch", "transformers", "matplotlib") + (
        f"from harness.cli import main; sys.exit(main(['report', {str(study)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    paths = json.loads(done.stdout.splitlines()[-1])
    assert Path(paths["study_html"]) == study / "study.html"
    html = (study / "study.html").read_text(encoding="utf-8")
    assert '<svg class="drawing' not in html and "Learning curves" in html


def test_curves_are_drawn_in_the_pages_own_colours(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    _, html = pages(write_study(tmp_path / "s", BUDGETS, by_budget).directory)
    (drawing,) = re.findall(r'<svg class="drawing".*?</svg>', html, re.DOTALL)
    assert "var(--series-1)" in drawing and "currentColor" in drawing
    assert set(re.findall(r"#[0-9a-fA-F]{6}\b", drawing)) == set()
    assert "replayed τ, held back" in drawing and "combined" in drawing
    assert pages(tmp_path / "s")[1] == html
    assert "http" not in re.sub(r'xmlns(:xlink)?="[^"]*"', "", html)


def test_a_page_is_whole_and_escaped(tmp_path: Path) -> None:
    study = write_study(tmp_path / "<s>", BUDGETS, by_budget)
    markdown, html = pages(study.directory)
    assert "<h1>Study &lt;s&gt;</h1>" in html and "# Study &lt;s&gt;" in markdown
    assert html.rstrip().endswith("</html>") and "Undefined" not in html


def test_an_unfinished_study_says_what_is_missing(tmp_path: Path) -> None:
    files = write_study(tmp_path / "s", BUDGETS, by_budget)
    lines = files.records.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if '"seed":1' not in line or '"steps":10' in line]
    files.records.write_text("".join(kept) + lines[-1][:50], encoding="utf-8")
    markdown, _ = pages(files.directory)
    assert "Unfinished: 4 trainings of 12." in markdown
    assert "cut off mid-write" in markdown
    rows = table(markdown, "Gain over uniform against budget")
    assert [row["Seeds"] for row in rows] == ["2", "1", "1"]
    files.records.write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="no finished training of uniform"):
        report(files.directory, files.directory)


def damaged(files: StudyFiles, what: str) -> None:
    body: dict[str, Any] = json.loads(files.study.read_text(encoding="utf-8"))
    lines = files.records.read_text(encoding="utf-8").splitlines(keepends=True)
    if what == "arms":
        body["arms"] = body["arms"][1:]
    if what == "version":
        body["schema_version"] = 7
    if what == "line":
        lines[0] = lines[0].replace('"accepted":[', '"accepted":[9,', 1)
    files.study.write_text(json.dumps(body), encoding="utf-8")
    files.records.write_text("".join(lines), encoding="utf-8")
    if what == "no records":
        files.records.unlink()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("arms", "an arm that study.json does not list"),
        ("version", "schema_version 7"),
        ("line", "records.jsonl, line 1: .*0 ≤ accepted"),
        ("no records", "records.jsonl cannot be read"),
    ],
)
def test_damage_is_a_sentence(
    tmp_path: Path, what: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files = write_study(tmp_path / "s", BUDGETS, by_budget)
    damaged(files, what)
    assert main(["report", str(files.directory)]) == 2
    error = capsys.readouterr().err
    assert re.search(words, error) and error.count("\n") == 1


def test_one_study_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = write_study(tmp_path / "s", BUDGETS, by_budget)
    assert main(["report", str(files.directory), str(tmp_path)]) == 2
    assert "one study at a time" in capsys.readouterr().err
