from __future__ import annotations

import copy
import dataclasses
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_directories import (
    BASELINES,
    DIGEST,
    ENVIRONMENT,
    asked,
    config,
    drafter,
    failure,
    generation,
    simulated_records,
    source,
    write_run,
)

from harness import metrics
from harness.audit_records import Deviation, make_audit
from harness.errors import UserError
from harness.records import Generation, Record
from reports import formatting, markdown
from reports.grid import Cell, Column, Row, Table, mark_best
from reports.render import leaderboard_text, write_leaderboard
from reports.run import comparable_groups, load_run
from reports.tables import (
    OVERALL,
    failure_frame,
    position_frame,
    score_frame,
)

GOLDEN = Path(__file__).parent / "golden" / "leaderboard.md"
VOID = {"meta", "rect", "br", "link", "wbr"}


def records() -> list[Record]:
    """Two prompts: the target takes 1 s a token, the drafter's pass 1.25 s; one answer failed."""
    made: list[Record] = []
    for prompt_id in ("0", "1"):
        facts: dict[str, Any] = {"prompt_id": prompt_id, "prefill_s": 0.5}
        loop = generation(method="ar_loop", accepted=[0] * 10, depth=0, decode_s=10.0, **facts)
        foreign = generation(method="hf_generate", num_new_tokens=11, decode_s=8.0, **facts)
        made += [loop, foreign]
    made.append(generation(accepted=[3, 1, 4], cut=1, decode_s=3.75, prefill_s=0.5))
    made.append(failure())
    return made


def training() -> dict[str, Any]:
    return {
        "path": "checkpoints/combined",
        "weights_sha256": DIGEST,
        "num_parameters": 4_000_000,
        "objective": {
            "gamma": 10.0,
            "alpha_focal": 0.3,
            "alpha_chain": 40.0,
            "ce_reduction": "weighted_mean",
        },
        "training": {
            "steps": 400,
            "seed": 0,
            "train_vocab_size": 8192,
            "data": {"name": "corpus", "sha256": DIGEST, "vocabulary": 8192},
            "name": "combined",
            "hardware": ENVIRONMENT["hardware"],
            "versions": ENVIRONMENT["versions"],
        },
    }


def settings() -> dict[str, Any]:
    return config(methods=[*BASELINES, drafter("combined", checkpoint=training())])


def test_golden_markdown(tmp_path: Path) -> None:
    """A wanted change: read the difference, then copy the new page over the golden one."""
    run = write_run(tmp_path / "run", records(), settings())
    samples = config(
        run_id="20260102-samples",
        methods=[*BASELINES, drafter("combined", checkpoint=training()), drafter("ngram")],
        tasks=[
            {"task": "gsm8k", "source": source(), "prompt_ids": [str(i) for i in range(6)]},
            {"task": "mbpp", "source": source("samples"), "prompt_ids": list("abcdef")},
        ],
    )
    drawn = simulated_records(
        samples,
        {"combined": 0.7, "ngram": 0.2},
        {"ar_loop": 0.05, "hf_generate": 0.052, "combined": 0.06, "ngram": 0.051},
    )
    other = write_run(tmp_path / "samples", drawn, samples)
    path, _ = write_leaderboard([run, other], tmp_path / "out")
    made = path.read_text(encoding="utf-8")
    assert made == GOLDEN.read_text(encoding="utf-8")
    assert leaderboard_text([other, run]) == made


def test_a_second_drafter_has_a_row_of_its_own_among_the_checkpoints(tmp_path: Path) -> None:
    second = {**training(), "weights_sha256": "cd" * 32, "path": "checkpoints/vp"}
    item = asked("combined+d2sd", checkpoint={**training(), "second": second})
    facts = config(methods=[*BASELINES, item])
    seconds = {"ar_loop": 0.05, "hf_generate": 0.06, "combined+d2sd": 0.07}
    made = simulated_records(facts, {"combined+d2sd": 0.7}, seconds)
    text = leaderboard_text([write_run(tmp_path / "run", made, facts)])
    assert [[row[0], row[8], row[9]] for row in cells(text, "Checkpoints")] == [
        ["combined+d2sd", DIGEST[:12], "checkpoints/combined"],
        ["combined+d2sd: second drafter", "cd" * 6, "checkpoints/vp"],
    ]


def test_the_page_says_what_else_an_objective_has(tmp_path: Path) -> None:
    other = {"alpha_ce": 0.0, "dpace_alpha": 0.5, "ce_until_error": True, "reward": "log"}
    other |= {"distill": 0.25, "prefix_decay": 0.9}
    objective = {**training()["objective"], **other}
    checkpoint = {**training(), "objective": objective}
    methods = [*BASELINES, drafter("combined", checkpoint=checkpoint)]
    run = write_run(tmp_path / "run", records(), config(methods=methods))
    assert (
        "| weighted_mean, α ce = 0, D-PACE α = 0.5, up to the first error, "
        "0.25 against the target's distribution, log reward, behind a visible prefix, β = 0.9 |"
    ) in leaderboard_text([run])


def test_scores_by_hand(tmp_path: Path) -> None:
    scores = score_frame([load_run(write_run(tmp_path / "run", records(), settings()))])
    row = scores.set_index(["method", "task"]).loc[("combined", "gsm8k")]
    assert row["tau"] == (4 + 2 + 4) / 3
    assert row["tau_macro_uncut"] == pytest.approx((4 + 2 + 5) / 3)
    assert row["speedup"] == pytest.approx((8 / 10) / (3.75 / 10))
    assert row["speedup_ar_loop"] == pytest.approx((10 / 10) / (3.75 / 10))
    assert row["speedup_end_to_end"] == pytest.approx(8.5 / 4.25)
    assert row["tau_uncut"] == pytest.approx((4 + 2 + 5) / 3)
    assert row["speedup_dflash"] == pytest.approx((8 / 11) / (3.75 / 11))
    assert row["speedup_spec_bench"] == pytest.approx((11 / 4.25) / (11 / 8.5))
    assert (row["num_generations"], row["num_failures"], row["num_paired"]) == (1, 1, 1)
    loop, foreign = (
        scores.set_index(["method", "task"]).loc[(name, OVERALL)]
        for name in ("ar_loop", "hf_generate")
    )
    assert loop["tau"] == 1.0
    assert foreign.isna()["tau"]
    assert foreign["speedup"] == 1.0


def test_overall_is_blank_unless_every_task_has_a_value(tmp_path: Path) -> None:
    two = config(
        tasks=[
            {"task": name, "source": source(), "prompt_ids": ["0"]} for name in ("gsm8k", "mbpp")
        ]
    )
    loop = [
        generation(method="ar_loop", task=name, accepted=[0] * 4, depth=0)
        for name in ("gsm8k", "mbpp")
    ]
    run = load_run(write_run(tmp_path / "run", [*loop, generation(accepted=[3])], two))
    scores = score_frame([run]).set_index(["method", "task"])
    assert scores.loc[("combined", "gsm8k"), "tau"] == 4.0
    blank = scores.loc[("combined", OVERALL), ["tau", "speedup", "tokens_per_s"]]
    assert blank.isna().all()
    assert scores.loc[("ar_loop", OVERALL), "tau"] == 1.0


def test_other_frames(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path / "run", records(), settings()))
    positions = position_frame(run)
    assert set(positions["method"]) == {"combined"}
    assert positions["num_rounds"].sum() == 3
    by_k = positions.set_index("k")
    assert by_k["joint"].loc[3] == 2 / 3
    assert by_k["conditional"].loc[4] == 1 / 2 and by_k["num_reached"].loc[4] == 2
    assert list(failure_frame([run])["error"]) == ["RuntimeError: out of memory"]


@pytest.mark.parametrize("name", ["config.json", "environment.json", "records.jsonl"])
def test_missing_and_corrupt_files_are_named(tmp_path: Path, name: str) -> None:
    path = write_run(tmp_path / "run", records(), settings())
    (path / name).write_text("{oops\n")
    with pytest.raises(UserError, match=name):
        load_run(path)
    (path / name).unlink()
    with pytest.raises(UserError, match=f"{name} cannot be read"):
        load_run(path)


def test_records_must_belong_to_the_config(tmp_path: Path) -> None:
    stranger = generation(method="stranger", accepted=[1])
    with pytest.raises(UserError, match="stranger on gsm8k"):
        load_run(write_run(tmp_path / "a", [stranger], settings()))
    twice = [generation(accepted=[1])] * 2
    with pytest.raises(UserError, match="two generations"):
        load_run(write_run(tmp_path / "b", twice, settings()))
    (tmp_path / "a" / "config.json").write_text('{"run_id": "x"}')
    with pytest.raises(UserError, match="lacks target, methods"):
        load_run(tmp_path / "a")


def test_a_failure_made_good_is_no_failure(tmp_path: Path) -> None:
    good = generation(prompt_id="1", accepted=[1])
    run = load_run(write_run(tmp_path / "run", [failure(), good], settings()))
    assert run.failures == ()
    assert run.generations == (good,)


def audited_run(path: Path, *, bug: bool) -> Path:
    """``ar_loop`` exact, ``hf_generate`` audited in part with a tie, ``combined`` with a bug."""
    made = records()
    loop, foreign, _, _, own, _ = made
    assert isinstance(loop, Generation) and isinstance(foreign, Generation)
    assert isinstance(own, Generation)
    tie = Deviation(position=2, margin=0.0625, noise=0.05)
    wrong = Deviation(position=4, margin=1.5, noise=0.04)
    own = dataclasses.replace(own, new_tokens=(*own.new_tokens[:4], 9, *own.new_tokens[5:]))
    foreign = dataclasses.replace(foreign, new_tokens=(5, 5, 8, *foreign.new_tokens[3:]))
    made = [loop, foreign, *made[2:4], own, made[5]]
    audits = [
        make_audit(loop, loop, ()),
        make_audit(foreign, loop, (tie,)),
        make_audit(own, loop, (wrong,) if bug else ()),
    ]
    return write_run(path, made, settings(), audits=audits)


def test_answers_that_are_not_judged_are_not_called_lossless(tmp_path: Path) -> None:
    made = records()
    loop, own = made[0], made[4]
    assert isinstance(loop, Generation) and isinstance(own, Generation)
    own = dataclasses.replace(own, new_tokens=(*own.new_tokens[:4], 9, *own.new_tokens[5:]))
    noisy = Deviation(position=4, margin=4.8, noise=7.6)
    audits = [make_audit(loop, loop, ()), make_audit(own, loop, (noisy,), dtype="float32")]
    run = write_run(tmp_path / "run", [*made[:4], own, made[5]], settings(), audits=audits)
    text = write_leaderboard([run], tmp_path)[0].read_text(encoding="utf-8")
    (row,) = [line for line in text.splitlines() if "| combined" in line and "not judged" in line]
    assert "ties only" not in row and "exact" not in row
    assert "answers of combined hold more noise than rounding makes (7.6)" in text
    assert "| MISMATCH | not judged | not audited |" in text


def test_verdicts_are_shown(tmp_path: Path) -> None:
    run = audited_run(tmp_path / "run", bug=True)
    path, html = write_leaderboard([run], tmp_path)
    lines = path.read_text(encoding="utf-8").splitlines()
    heads = [index for index, line in enumerate(lines) if line.startswith("### ")]
    tables = {
        lines[start]: [line.split("|")[1:-1] for line in lines[start:end] if line[:1] == "|"][2:]
        for start, end in zip(heads, [*heads[1:], len(lines)], strict=True)
    }
    shown = {row[1].strip(): row[-1].strip() for row in tables["### Leaderboard"]}
    assert shown == {
        "combined": "MISMATCH",
        "ar_loop": "exact (1 of 2 audited)",
        "hf_generate": "ties only (1 of 2 audited)",
    }
    counts = {row[0].strip(): [c.strip() for c in row[1:]] for row in tables["### Losslessness"]}
    assert counts["combined"] == ["0", "0", "1", "0", "–", "–"]
    assert counts["hf_generate"] == ["0", "1", "0", "1", "0.0625", "0.05"]
    ((*_, position, margin, noise),) = tables["### MISMATCH"]
    assert [position.strip(), margin.strip(), noise.strip()] == ["4", "1.5", "0.04"]
    assert "- MISMATCH: 1 of 1 answers of combined are not the target's; listed below." in lines
    page = html.read_text(encoding="utf-8")
    assert 'title="0 exact, 0 ties only, 1 MISMATCH, 0 not audited"' in page


def test_without_a_mismatch_none_is_spoken_of(tmp_path: Path) -> None:
    text = leaderboard_text([audited_run(tmp_path / "run", bug=False)])
    assert "### MISMATCH" not in text and "- MISMATCH" not in text
    assert "| ties only" in text


def test_runs_from_before_the_audit_have_blanks(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", records(), settings())
    assert load_run(run).audits == {}
    text = leaderboard_text([run])
    assert "### Losslessness" not in text
    table = text.partition("### Leaderboard")[2].partition("###")[0]
    last = [line.split("|")[-2].strip() for line in table.splitlines() if line[:1] == "|"]
    assert last == ["Lossless", last[1], "–", "–", "–"]


def test_an_audit_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    run = audited_run(tmp_path / "run", bug=False)
    with (run / "audit.jsonl").open("a") as file:
        file.write("{oops\n")
    with pytest.raises(UserError, match=r"audit\.jsonl, line 4.*harness verify"):
        load_run(run)


def test_a_torn_last_line_is_left_out_and_said(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", records(), settings())
    assert not load_run(path).torn
    with (path / "records.jsonl").open("a") as file:
        file.write('{"schema_version": 1, "kind": "gener')
    run = load_run(path)
    assert run.torn
    assert len(run.generations) == 5
    assert "cut off mid-write" in leaderboard_text([path])


def test_unfinished_runs_say_so(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", records()[:4], settings())
    text = leaderboard_text([path])
    assert "combined has not been asked every turn of 2 of 2 conversations" in text


def test_a_run_cut_between_two_turns_is_unfinished(tmp_path: Path) -> None:
    """``ar_loop`` has both turns of prompt 0, in one repeat; the drafter's second one failed there.

    A conversation that another method or repeat shows to be longer is not whole; nobody began 1.
    """
    made: list[Record] = []
    for repeat in range(2):
        for name in ("ar_loop", "combined"):
            made.append(generation(method=name, accepted=[1], repeat=repeat))
    made += [generation(method="ar_loop", accepted=[1], turn=2), failure(prompt_id="0", turn=2)]
    facts = config(methods=[BASELINES[0], drafter("combined")], repeats=2)
    run = load_run(write_run(tmp_path / "run", made, facts))
    assert (run.num_missing("ar_loop"), run.num_missing("combined")) == (3, 3)
    both = [*made, generation(method="ar_loop", accepted=[1], turn=2, repeat=1)]
    run = load_run(write_run(tmp_path / "more", both, facts))
    assert (run.num_missing("ar_loop"), run.num_missing("combined")) == (2, 3)
    text = leaderboard_text([tmp_path / "more"])
    assert "Unfinished: combined has not been asked every turn of 3 of 4 conversations." in text


def test_turns_that_nobody_was_asked_are_missing_where_the_run_tells_of_them(
    tmp_path: Path,
) -> None:
    made = [generation(method="ar_loop", accepted=[1], prompt_id=name) for name in ("0", "1")]
    facts = config(methods=[BASELINES[0]])
    assert load_run(write_run(tmp_path / "older", made, facts)).num_missing("ar_loop") == 0
    facts["tasks"][0]["num_turns"] = [1, 2]
    assert load_run(write_run(tmp_path / "run", made, facts)).num_missing("ar_loop") == 1


def changed(field: str, value: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """Config and environment with one fact changed."""
    both = copy.deepcopy({"config": settings(), "environment": ENVIRONMENT})
    *path, last = field.split(".")
    place: Any = both
    for name in path:
        place = place[int(name)] if name.isdigit() else place[name]
    place[last] = value
    return both["config"], both["environment"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("config.target.model", "other"),
        ("config.target.revision", "abc"),
        ("config.target.weights_sha256", "abc"),
        ("config.target.dtype", "float32"),
        ("config.target.attn", "eager"),
        ("config.target.device", "cuda"),
        ("config.target.template_sha256", "abc"),
        ("config.target.enable_thinking", True),
        ("config.sampling.temperature", 1.0),
        ("config.sampling.top_p", 0.9),
        ("config.sampling.top_k", 50),
        ("config.max_new_tokens", 256),
        ("config.tasks.0.source.kind", "samples"),
        ("config.tasks.0.source.digest", "abc"),
        ("config.tasks.0.prompt_ids", ["0"]),
        ("environment.hardware.gpu", "A100"),
        ("environment.hardware.num_threads", 1),
    ],
)
def test_runs_that_differ_are_never_ranked_together(
    tmp_path: Path, field: str, value: object
) -> None:
    first = load_run(write_run(tmp_path / "a", [], settings()))
    facts, environment = changed(field, value)
    second = load_run(write_run(tmp_path / "b", [], {**facts, "run_id": "b"}, environment))
    assert len(comparable_groups([first, second])) == 2


def test_runs_that_differ_in_drafters_share_a_table(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", records(), settings())
    second = write_run(tmp_path / "b", records(), {**settings(), "run_id": "b"})
    assert len(comparable_groups([load_run(first), load_run(second)])) == 1
    assert "combined (b)" in leaderboard_text([first, second])
    with pytest.raises(UserError, match="more than once"):
        leaderboard_text([first, first])
    with pytest.raises(UserError, match="at least one"):
        leaderboard_text([])


def loaded_run(path: Path, **loads: float | None) -> Path:
    """`records` with the other load of each method's answers."""
    made = [
        dataclasses.replace(item, other_load=loads.get(item.method))
        if isinstance(item, Generation)
        else item
        for item in records()
    ]
    return write_run(path, made, settings())


def test_rows_measured_beside_other_work_are_marked(tmp_path: Path) -> None:
    run = loaded_run(tmp_path / "run", combined=0.45, ar_loop=0.2)
    path, html = write_leaderboard([run], tmp_path)
    text, page = path.read_text(encoding="utf-8"), html.read_text(encoding="utf-8")
    assert [row[1] for row in cells(text, "Leaderboard")] == ["combined°", "hf_generate", "ar_loop"]
    note = (
        "° other processes kept more than 0.2 cores busy during the median answer, so its times "
        "are less certain (combined 0.45 cores)."
    )
    beneath = text.split("### Leaderboard")[1].split("###")[0]
    assert f"- {note}" in beneath and f"<li>{note}</li>" in page
    assert 'title="other load 0.45 cores"' in page and "combined°" in page
    by_task = text.split("### Every number by task")[1].split("###")[0].splitlines()
    table = [[part.strip() for part in line.split("|")] for line in by_task if line[:1] == "|"]
    place = table[0].index("Other load, cores")
    shown = {(row[1], row[place]) for row in table[2:]}
    assert shown == {("combined°", "0.45"), ("hf_generate", "–"), ("ar_loop", "0.20")}


def test_no_row_is_marked_without_load_or_without_knowing(tmp_path: Path) -> None:
    for name, load in (("quiet", 0.01), ("unknown", None)):
        run = loaded_run(tmp_path / name, combined=load, ar_loop=load, hf_generate=load)
        text = leaderboard_text([run]).split("## Definitions")[0]
        assert "°" not in text
        frame = score_frame([load_run(run)]).set_index(["method", "task"])
        assert frame["other_load"].isna().all() == (load is None)


def drawn_run(
    path: Path,
    seconds: dict[str, float],
    num_prompts: int = 12,
    baseline_s: float = 0.05,
    **fields: Any,
) -> Path:
    """A run of drafters that accept alike and differ in the time of a pass."""
    facts = config(
        methods=[BASELINES[0], *map(drafter, seconds)],
        tasks=[
            {
                "task": "gsm8k",
                "source": source(),
                "prompt_ids": [str(i) for i in range(num_prompts)],
            }
        ],
        **fields,
    )
    times = {"ar_loop": baseline_s, **seconds}
    return write_run(path, simulated_records(facts, dict.fromkeys(seconds, 0.6), times), facts)


def cells(text: str, title: str) -> list[list[str]]:
    """Rows of the Markdown table under a title."""
    body = text.split(f"### {title}")[1].split("###")[0]
    lines = [line for line in body.splitlines() if line.startswith("|")][2:]
    return [[part.strip().strip("*") for part in line.strip("|").split("|")] for line in lines]


def test_ranks_that_do_not_differ_are_ties(tmp_path: Path) -> None:
    seconds = {"fast": 0.05, "alike": 0.0505, "slow": 0.08, "slower": 0.0802, "last": 0.2}
    text = leaderboard_text([drawn_run(tmp_path / "run", seconds)])
    shown = {row[1]: row[0] for row in cells(text, "Leaderboard")}
    assert shown["ar_loop"] == "–"
    assert [shown[name] for name in ("fast", "alike")] == ["1–2", "1–2"]
    assert [shown[name] for name in ("slow", "slower")] == ["3–4", "3–4"]
    assert shown["last"] == "5"
    assert "Not shown to be faster than" in text.split("### Leaderboard")[0]


def test_clear_differences_are_ranks(tmp_path: Path) -> None:
    text = leaderboard_text([drawn_run(tmp_path / "run", {"a": 0.05, "b": 0.07, "c": 0.1})])
    assert [row[:2] for row in cells(text, "Leaderboard")][:3] == [
        ["1", "a"],
        ["2", "b"],
        ["3", "c"],
    ]
    assert "Not shown to be faster than" not in text.split("### Leaderboard")[0]


def test_the_lead_names_those_that_tie_with_the_first_itself(tmp_path: Path) -> None:
    """Each ties with its neighbour, and the last is slower than the first: no rank has both."""
    seconds = {"a": 0.05, "b": 0.0505, "c": 0.051, "d": 0.0515, "e": 0.052, "f": 0.0525}
    path = drawn_run(tmp_path / "run", seconds)
    text = leaderboard_text([path])
    ranks = {row[1]: row[0] for row in cells(text, "Leaderboard")}
    first, *others = sorted(seconds, key=lambda name: list(ranks).index(name))
    pairs = {frozenset(row[:2]): row[6] for row in cells(text, "Differences between drafters")}
    slower = [name for name in others if "speed" in pairs[frozenset((first, name))]]
    assert slower
    assert ranks[first] == f"1–{6 - len(slower)}" and ranks[others[-1]].endswith("–6")
    assert all(not ranks[name].startswith("1") for name in slower)
    named = ", ".join(name for name in others if name not in slower)
    assert f" Not shown to be faster than {named}.\n" in text


def test_too_few_conversations_rank_nobody_above_another(tmp_path: Path) -> None:
    text = leaderboard_text([drawn_run(tmp_path / "run", {"a": 0.05, "b": 0.1}, num_prompts=3)])
    assert [row[0] for row in cells(text, "Leaderboard")] == ["–", "–", "–"]
    assert cells(text, "Differences between drafters")[0][6] == "–"


def test_ties_across_runs_are_over_each_runs_own_baseline(tmp_path: Path) -> None:
    first = drawn_run(tmp_path / "a", {"combined": 0.05})
    for name, own_s, baseline_s, expected in (
        ("b", 0.05, 0.05, ["1–2", "1–2"]),
        ("c", 0.075, 0.05, ["1", "2"]),
        ("d", 0.075, 0.075, ["1–2", "1–2"]),
    ):
        path = drawn_run(tmp_path / name, {"combined": own_s}, baseline_s=baseline_s, run_id=name)
        rows = cells(leaderboard_text([first, path]), "Leaderboard")
        assert [row[0] for row in rows][:2] == expected


def test_one_baseline_ranks_all_runs_of_a_table(tmp_path: Path) -> None:
    """In each run another baseline is fastest; the drafter that decodes faster leads."""
    paths = []
    for name, foreign_s, own_s in (("a", 12.0, 5.0), ("b", 7.0, 4.0)):
        made: list[Record] = []
        for repeat in range(2):
            facts: dict[str, Any] = {"repeat": repeat}
            made += [
                generation(method="ar_loop", accepted=[0] * 10, depth=0, decode_s=10.0, **facts),
                generation(method="hf_generate", num_new_tokens=11, decode_s=foreign_s, **facts),
                generation(accepted=[4, 4], decode_s=own_s, **facts),
            ]
        tasks = [{"task": "gsm8k", "source": source(), "prompt_ids": ["0"]}]
        facts = config(run_id=name, tasks=tasks, repeats=2)
        paths.append(write_run(tmp_path / name, made, facts))
    text = leaderboard_text(paths)
    rows = cells(text, "Leaderboard")
    assert [row[1] for row in rows][:2] == ["combined (a)", "combined (b)"]
    shown = {row[1]: row[6] for row in rows}
    # hf_generate takes 19 s in both runs, ar_loop 20 s.
    assert (shown["combined (a)"], shown["combined (b)"]) == ("2.40×", "1.75×")
    assert (shown["ar_loop (a)"], shown["hf_generate (b)"]) == ("1.20×", "1.00×")
    over = {row[0]: row[3] for row in cells(text, "Over repeats") if row[1] == "overall"}
    assert over["combined (b)"] == "1.75 ± 0.00 (n = 2)"
    note = "speedups divide by hf_generate, the headline baseline (ar_loop"
    assert f"Run a: {note} 1.0, hf_generate 0.8 tokens/s)." in text and f"Run b: {note}" in text


def test_a_baseline_that_decoded_nothing_in_one_run_is_said(tmp_path: Path) -> None:
    loop = generation(method="ar_loop", accepted=[0] * 10, depth=0, decode_s=10.0)
    nothing = generation(method="hf_generate", num_new_tokens=1, decode_s=0.0)
    first = write_run(tmp_path / "a", [loop, nothing], config(run_id="a"))
    assert "divide by ar_loop, the headline baseline (ar_loop 1.0 tokens/s)" in leaderboard_text(
        [first]
    )
    second = write_run(tmp_path / "b", [nothing], config(run_id="b"))
    text = leaderboard_text([first, second])
    assert "Run b: ar_loop, the headline baseline, decoded nothing" in text


def test_every_pair_of_drafters_is_compared(tmp_path: Path) -> None:
    path = drawn_run(tmp_path / "run", {"a": 0.05, "b": 0.06, "c": 0.0602})
    rows = cells(leaderboard_text([path]), "Differences between drafters")
    assert {frozenset(row[:2]) for row in rows} == {frozenset(pair) for pair in ("ab", "ac", "bc")}
    run = load_run(path)
    for row in rows:
        first, second = run.of(row[0]), run.of(row[1])
        assert row[4] == formatting.times(metrics.speedup(second, first))
        assert row[2] == formatting.signed(metrics.tau_difference(second, first))
        assert ("speed" in row[6]) == ("a" in row[:2])
        assert row[7] == "12"


def test_what_no_interval_speaks_about_is_not_called_alike(tmp_path: Path) -> None:
    """Three of twelve answers are timed, the first process's: enough for τ, not for speed."""
    path = drawn_run(tmp_path / "run", {"a": 0.05, "b": 0.0502})
    whole = load_run(path).generations
    made = [
        dataclasses.replace(item, process=int(int(item.prompt_id) > 2), num_processes=2)
        for item in whole
    ]
    path = write_run(tmp_path / "shared", made, dict(load_run(path).config))
    ((*_, speed_range, verdict, num),) = cells(
        leaderboard_text([path]), "Differences between drafters"
    )
    assert (speed_range, verdict.endswith("; speed not told"), num) == ("–", True, "12")


def test_waste_is_shown_by_task_and_not_for_trees(tmp_path: Path) -> None:
    """The answer and its drafts are those of `records`; the tree accepts as many tokens."""
    chain = generation(accepted=[3, 1, 4], cut=1)
    assert chain.rounds is not None
    branched = tuple(dataclasses.replace(item, nodes=item.nodes + 1) for item in chain.rounds)
    tree = dataclasses.replace(chain, method="tree", rounds=branched)
    facts = config(methods=[BASELINES[0], drafter("combined"), drafter("tree")])
    loop = generation(method="ar_loop", accepted=[0] * 10, depth=0)
    text = leaderboard_text([write_run(tmp_path / "run", [loop, chain, tree], facts)])
    shares = ["52.6", "73.7", "28.6", "33.3", "19", "5"]
    assert cells(text, "Correct draft tokens thrown away") == [
        ["combined", "gsm8k", *shares],
        ["combined", "overall", *shares],
    ]
    alone = config(methods=[BASELINES[0], drafter("tree")])
    run = write_run(tmp_path / "alone", [loop, tree], alone)
    assert "Correct draft tokens" not in leaderboard_text([run])


def test_tables_that_know_chains_say_what_they_make_of_trees(tmp_path: Path) -> None:
    chain = generation(accepted=[3, 1, 4], cut=1)
    assert chain.rounds is not None
    branched = tuple(dataclasses.replace(item, nodes=item.nodes + 1) for item in chain.rounds)
    tree = dataclasses.replace(chain, method="tree", rounds=branched)
    loop = generation(method="ar_loop", accepted=[0] * 10, depth=0)
    facts = config(methods=[BASELINES[0], drafter("combined"), drafter("tree")])
    notes = {
        "Conditional acceptance C(k)": "Where a tree accepted a shorter path to its end",
        "Correct draft tokens thrown away": "Trees are left out",
    }
    for made in ([loop, chain], [loop, chain, tree]):
        path = write_run(tmp_path / str(len(made)), made, facts)
        sections = leaderboard_text([path]).split("\n### ")
        for title, note in notes.items():
            (section,) = (part for part in sections if part.startswith(title))
            assert (note in section) == (tree in made)


def test_one_drafter_has_nothing_to_differ_from(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", records(), settings())
    assert "Differences between drafters" not in leaderboard_text([run])


def test_chosen_acceptance_is_shown_and_not_ranked(tmp_path: Path) -> None:
    run = drawn_run(tmp_path / "run", {"combined": 0.06, "synthetic": 0.01})
    text = leaderboard_text([run])
    assert "Fastest drafter: combined" in text
    assert "Acceptance of synthetic is chosen by hand (–)" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert any("**" in line for line in lines if "combined" in line)
    assert not any("**" in line for line in lines if "synthetic" in line)


class Page(HTMLParser):
    """Checks nesting; gathers tags, attributes and the text of every table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


HOSTILE = "<b>x</b>|*[y](z)<script>alert(1)</script>"


def hostile_run(path: Path, kind: str = "directory") -> Path:
    """Markup in every name a run may carry."""
    facts = config(
        methods=[*BASELINES, drafter(HOSTILE, checkpoint={**training(), "path": HOSTILE})],
        tasks=[{"task": "gsm8k", "source": source(kind), "prompt_ids": ["0", HOSTILE]}],
    )
    made: list[Record] = [
        generation(method="ar_loop", accepted=[0] * 4, depth=0),
        generation(method=HOSTILE, accepted=[3]),
        failure(method=HOSTILE, prompt_id=HOSTILE, error=f"ValueError: {HOSTILE}"),
    ]
    environment = {**ENVIRONMENT, "argv": ["run", HOSTILE]}
    return write_run(path, made, facts, environment)


def test_html_is_well_formed_self_contained_and_escaped(tmp_path: Path) -> None:
    _, path = write_leaderboard([hostile_run(tmp_path / "run")], tmp_path)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert "http:" not in text and "https:" not in text
    assert not [tag for tag, _ in page.tags if tag in ("b", "link", "img", "iframe")]
    assert not [attrs for _, attrs in page.tags if "src" in attrs]
    assert all((attrs["href"] or "").startswith("#") for attrs in page.attributes("a"))
    assert len(page.attributes("script")) == 1
    assert HOSTILE in page.text


def test_html_tables_are_accessible(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", records(), settings())
    _, path = write_leaderboard([run], tmp_path)
    page = Page(path.read_text(encoding="utf-8"))
    heads = page.attributes("th")
    assert all(attrs.get("scope") in ("col", "colgroup", "row") for attrs in heads)
    assert all(attrs.get("aria-sort") == "none" for attrs in heads if attrs["scope"] == "col")
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {attrs["aria-labelledby"] for attrs in page.attributes("table")} <= set(ids)
    sortable = [attrs for attrs in page.attributes("button") if "data-column" in attrs]
    assert len(sortable) == len([attrs for attrs in heads if attrs["scope"] == "col"])


def test_markdown_names_stay_names(tmp_path: Path) -> None:
    text = leaderboard_text([hostile_run(tmp_path / "run")])
    assert "<b>" not in text and "<script>" not in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    plain = [line.replace("\\|", "") for line in table]
    main = plain[: plain.index(next(line for line in plain if "k = 1" in line))]
    assert len({line.count("|") for line in main}) == 1


def test_samples_are_marked_in_every_table_of_numbers(tmp_path: Path) -> None:
    run = hostile_run(tmp_path / "run", "samples")
    markdown_path, html_path = write_leaderboard([run], tmp_path)
    sections = markdown_path.read_text(encoding="utf-8").split("\n### ")[1:]
    exempt = ("Checkpoints", "Failures", "Runs")
    for section in sections:
        marked = "samples: not the benchmark" in section
        assert marked != section.startswith(exempt)
    page = html_path.read_text(encoding="utf-8")
    for figure in page.split("<figure>")[1:]:
        title = figure.split("</h3>")[0].rpartition(">")[2]
        assert ('class="badge"' in figure.split("</figcaption>")[0]) != title.startswith(exempt)
    clean = write_leaderboard([hostile_run(tmp_path / "clean")], tmp_path / "clean")
    for path in clean:
        assert "samples: not the benchmark" not in path.read_text(encoding="utf-8")


def test_same_records_same_bytes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", records(), settings())
    first = [path.read_bytes() for path in write_leaderboard([run], tmp_path / "a")]
    second = [path.read_bytes() for path in write_leaderboard([run], tmp_path / "b")]
    assert first == second


def test_an_output_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", records(), settings())
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_leaderboard([run], tmp_path / "file")


def test_a_leaderboard_needs_no_torch(tmp_path: Path) -> None:
    run = audited_run(tmp_path / "run", bug=True)
    script = f"""
import sys
class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "datasets"):
            raise ImportError(f"{{name}} is not installed here")
sys.meta_path.insert(0, Forbid())
from pathlib import Path
from reports.render import write_leaderboard
print(*write_leaderboard([Path({str(run)!r})], Path({str(tmp_path)!r})))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "leaderboard.html").is_file()


def test_best_is_marked_and_shared_at_printed_precision() -> None:
    def column_of(*values: float | None, best: Any = "high") -> list[bool]:
        cells = [Row(cells=(Cell(text=formatting.ratio(v), value=v),)) for v in values]
        return [row.cells[0].best for row in mark_best([Column(title="x", best=best)], cells)]

    assert column_of(1.0, 2.0, None) == [False, True, False]
    assert column_of(2.001, 2.004, 1.0) == [True, True, False]
    assert column_of(3.0, 2.0, best="low") == [False, True]
    assert column_of(1.0, None) == [False, False]
    assert column_of(2.0, 2.0) == [False, False]
    assert column_of(1.0, 2.0, best=None) == [False, False]


@given(st.text(min_size=1, max_size=30))
def test_any_text_keeps_a_markdown_table_whole(text: str) -> None:
    grid = Table(
        title="",
        note="",
        columns=(Column(title=text, kind="label"), Column(title="n")),
        rows=(Row(cells=(Cell(text=text), Cell(text="1", value=1))),),
    )
    lines = markdown.table(grid).split("\n")
    assert len(lines) == 3
    assert "<" not in lines[0]
    unescaped = lines[2].replace("\\\\", "").replace("\\|", "")
    assert unescaped.count("|") == 3


def test_blanks_and_numbers_are_formatted_in_one_way() -> None:
    blank = formatting.BLANK
    shown = (
        formatting.ratio,
        formatting.times,
        formatting.rate,
        formatting.gibibytes,
        formatting.signed,
    )
    assert {rule(None) for rule in shown} == {blank}
    assert formatting.times(0.0) == "0.00×"
    assert formatting.signed(-0.25) == "−0.25" and formatting.signed(0.25) == "+0.25"
    assert formatting.spread(-0.1, 0.2) == "−0.10 to 0.20" and formatting.spread(None, None) == ""
    assert formatting.rate(1234.5) == "1,234" and formatting.rate(12.34) == "12.3"
    assert formatting.gibibytes(3 * 2**30) == "3.00"
    assert formatting.number(float("inf")) == "∞" and formatting.number(0.3) == "0.3"
    assert formatting.sampling({"temperature": 0.7, "top_p": 0.9, "top_k": 20}) == (
        "temperature 0.7, top-p 0.9, top-k 20"
    )
    assert formatting.commit("a" * 40, True) == "aaaaaaaaaaaa + uncommitted changes"
    assert formatting.commit(None, None) == "unknown"
