"""Numbers in words, at the edges of their rules."""

from __future__ import annotations

from reports import formatting as form


def test_units_and_edges() -> None:
    assert form.share(0.5) == "50.0" and form.milliseconds(0.0123) == "12.3"
    assert form.interval(2.0, 1.0) == "2.00–1.00" and form.interval(1.0, 1.0) == ""
    assert form.rate(1000.0) == "1,000" and form.rate(999.94) == "999.9"
    assert form.sparkline((0.0, 0.01, 0.5, 1.0)) == "·▁▄█"
    assert form.counted(0, "core") == "0 cores" and form.counted(1, "core") == "1 core"
    assert form.points(0.0) == "0.0" and form.points(-0.01) == "−1.0"


def test_sampling_names_what_bounds_it() -> None:
    assert form.sampling({"temperature": 1.0, "top_p": 1.0, "top_k": 0}) == "temperature 1"
    assert form.sampling({"temperature": 1.0, "top_p": 1.0, "top_k": 1}) == "temperature 1, top-k 1"
