"""Findings: the last line of each answer that is about it, and what is said of the others."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_directories import generation

from harness.errors import UserError
from harness.findings import found_before, read_findings, tokens_sha256
from harness.records import Failure, Generation, RecordKey, from_json, key_of, to_json


def parse(line: str) -> Failure:
    found = from_json(line)
    assert isinstance(found, Failure)
    return found


def line(prompt_id: str, error: str) -> str:
    made = Failure(
        task="gsm8k", prompt_id=prompt_id, turn=1, method="combined", repeat=0, error=error
    )
    return to_json(made) + "\n"


ANSWERS = [generation(prompt_id=name, num_new_tokens=3) for name in ("0", "1", "2")]


def belongs(finding: Failure, answer: Generation) -> bool:
    assert key_of(finding) == key_of(answer)
    return finding.error != "of another"


def test_the_last_line_that_belongs_counts(tmp_path: Path) -> None:
    path = tmp_path / "found.jsonl"
    assert read_findings(path, parse, ANSWERS, belongs) == {}
    lines = [
        ("0", "first"),
        ("1", "only"),
        ("0", "second"),
        ("0", "of another"),
        ("7", "no answer"),
    ]
    path.write_text("".join(line(*item) for item in lines) + line("2", "torn")[:-1])
    found = read_findings(path, parse, ANSWERS, belongs)
    assert {key[1]: item.error for key, item in found.items()} == {"0": "second", "1": "only"}


def test_what_is_appended_to_has_whole_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "found.jsonl"

    def read() -> dict[RecordKey, Failure]:
        return read_findings(path, parse, ANSWERS, belongs)

    def before() -> dict[RecordKey, Failure]:
        return found_before(path, read, "thing", "remove it.")

    assert before() == {} and not path.exists()
    path.write_text(line("0", "whole") + "half")
    assert len(before()) == 1 and path.read_text() == line("0", "whole")
    assert "cut off a torn last thing (4 bytes)" in capsys.readouterr().err
    assert len(before()) == 1 and capsys.readouterr().err == ""
    path.write_text("{}\n")
    with pytest.raises(UserError, match=r"found\.jsonl, line 1: .*; remove it\.$"):
        before()


def test_digests_are_those_of_older_runs() -> None:
    """Another way of taking them would have every run audited anew."""
    own, other = generation(num_new_tokens=3), generation(num_new_tokens=2)
    assert tokens_sha256(own)[:16] == "dd85bd28d8612bf2"
    assert tokens_sha256(own, other)[:16] == "346830101a9d7a42"
