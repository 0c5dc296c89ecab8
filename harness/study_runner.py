"""From a study to its records: every arm trained, replayed and exported; what is done is kept."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import Timeout

from harness import provenance
from harness.errors import UserError
from harness.interrupt import sigterm_as_ctrl_c
from harness.progress import say
from harness.study import Arm, Responses, Study
from harness.study_files import (
    StudyFiles,
    StudyWriter,
    load_results,
    note_bench,
    prepare,
    working_on,
)
from harness.study_records import Finished, Measurement, key_of

if TYPE_CHECKING:
    from drafters.block_diffusion.variant import Variant
    from drafters.block_diffusion.workbench import Workbench
    from harness.study_answers import Answers
    from reports.run import Run

CURVE_ANSWERS = 32
"""Held-back answers replayed at each point of a learning curve."""


def run_study(study: Study, directory: Path, argv: Sequence[str]) -> StudyFiles:
    """Train and measure every arm that is not done and that no other process is at.

    Stopped anywhere (Ctrl-C, kill), the same call goes on: arms that are done are left alone, a
    training goes on from its last snapshot. Several processes may make the same call: each takes
    arms that nobody has.

    Raises:
        UserError: another study is in ``directory``, or target, data or a run cannot be used.
    """
    from harness import shards

    if shards.place().size > 1:
        raise UserError(
            "harness study needs no launcher: start the same command once for each process."
        )
    from drafters.train import check_training

    runs = _runs(study)
    begun = StudyFiles(directory).study.is_file()
    if not begun:
        check_training(study.train, tuple(study.objectives))
    files = prepare(directory)
    sources, environment = _sources(runs), provenance.environment(argv)
    with (
        sigterm_as_ctrl_c(),
        working_on(files, study, sources, environment),
        StudyWriter(files) as writer,
    ):
        if begun:  # first, whether it is the same study
            check_training(study.train, tuple(study.objectives))
        _Session(study, files, writer, runs).work()
    return files


def _runs(study: Study) -> list[Run]:
    """The runs whose answers are replayed, before anything is trained."""
    from reports.run import load_run

    runs = [load_run(path) for path in study.measure.runs]
    for run in runs:
        if run.config["sampling"]["temperature"] != 0 or "ar_loop" not in run.baselines:
            raise UserError(f"run {run.run_id} is not a greedy run with ar_loop; name one that is.")
        if run.config["target"]["name"] != study.train.target:
            raise UserError(
                f"run {run.run_id} was made by target {run.config['target']['name']}, and the "
                f"study trains for {study.train.target}; name a run of the same target."
            )
    tasks = [task for run in runs for task in run.tasks]
    for task in tasks:
        if tasks.count(task) > 1:
            raise UserError(f"two of measure.runs hold answers of {task}; name one of them.")
    return runs


def _sources(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Task to the run that answered it, and where its prompts came from."""
    return {
        task["task"]: {
            "run_id": run.run_id,
            "num_prompts": len(task["prompt_ids"]),
            **{name: task["source"][name] for name in ("kind", "location", "digest")},
        }
        for run in runs
        for task in run.config["tasks"]
    }


class _Session:
    """One call, and what it has loaded."""

    def __init__(
        self, study: Study, files: StudyFiles, writer: StudyWriter, runs: Sequence[Run]
    ) -> None:
        self.study, self.files, self.writer, self.runs = study, files, writer, runs
        self.known: set[tuple[Arm, int, int]] = set()
        self.done: dict[Arm, Finished] = {}
        self.benches: dict[Responses, Workbench] = {}
        self.answers: list[Answers] = []

    def work(self) -> None:
        """Arm by arm; those that differ only in their objective are trained in step."""
        companies = [
            (name, list(arms)) for name, arms in groupby(self.study.arms, key=self.study.company)
        ]
        while self._take_next(companies):
            pass
        left = len(self.study.arms) - len(self.done)
        if left:
            say(f"{left} arms are with other processes; the report holds what is finished")
        else:
            for place in (self.files.snapshots, self.files.claims):
                shutil.rmtree(place, ignore_errors=True)

    def _take_next(self, companies: Sequence[tuple[str, list[Arm]]]) -> bool:
        """Train the first company that is neither done nor another's; whether there was one."""
        self._read()
        for name, arms in companies:
            if all(arm in self.done for arm in arms):
                continue
            with contextlib.suppress(Timeout), self.files.claim(name):
                self._read()  # whoever had it before may have finished it
                if left := [arm for arm in arms if arm not in self.done]:
                    self._train(left, name)
                return True
        return False

    def _read(self) -> None:
        """What all processes have done."""
        results = load_results(self.files.directory)
        self.known = {key_of(record) for record in results.measurements}
        self.done = dict(results.finished)

    def _train(self, arms: Sequence[Arm], company: str) -> None:
        from drafters.block_diffusion.trainer import train_variants

        study, first, snapshots = self.study, arms[0], self.files.snapshots / company
        bench = self._bench(first.recipe.responses)
        self._load_answers()
        config = study.config(first)
        by_name = {arm.recipe.objective: arm for arm in arms}
        names = ", ".join(by_name)
        say(
            f"{len(self.done) + 1} of {len(study.arms)} arms: {names}, seed {first.seed}, "
            f"{first.recipe.steps} steps"
        )
        variants = train_variants(
            bench,
            config,
            {name: study.objectives[name] for name in by_name},
            snapshots=snapshots,
            num_measurements=study.measure.curve_points,
            watch=lambda measured: self._watch(measured, by_name, bench),
        )
        for variant in variants:
            self._finish(by_name[variant.name], variant, bench)
        shutil.rmtree(snapshots, ignore_errors=True)

    def _watch(
        self, variants: Iterable[Variant], arms: Mapping[str, Arm], bench: Workbench
    ) -> None:
        """A point of the learning curves; the last one is measured whole, by `_finish`."""
        for variant in variants:
            arm = arms[variant.name]
            key = (arm, variant.step, arm.recipe.block_size)
            if variant.step < arm.recipe.steps and key not in self.known:
                held_back = [self.answers[0].first(CURVE_ANSWERS)]
                self._measure(arm, variant, bench, arm.recipe.block_size, held_back)

    def _finish(self, arm: Arm, variant: Variant, bench: Workbench) -> None:
        from drafters.block_diffusion.trainer import export
        from targets.digest import weights_digest

        study = self.study
        place = self.files.checkpoints / study.name(arm)
        export(variant, study.config(arm), bench, place)
        for horizon in dict.fromkeys((arm.recipe.block_size, *study.measure.horizons)):
            if (arm, variant.step, horizon) not in self.known:
                self._measure(arm, variant, bench, horizon, self.answers)
        record = Finished(
            arm=arm,
            checkpoint=place.relative_to(self.files.directory).as_posix(),
            weights_sha256=weights_digest([place / "model.safetensors"]),
            num_sequences=len(bench.corpus.train),
            train_s=round(variant.train_s, 1),
            num_parameters=sum(p.numel() for p in variant.model.parameters()),
            initial_weights=variant.initial_weights,
        )
        self.writer.append(record)
        self.done[arm] = record

    def _measure(
        self,
        arm: Arm,
        variant: Variant,
        bench: Workbench,
        horizon: int,
        answers: Sequence[Answers],
    ) -> None:
        from harness.study_answers import replayed

        measure = self.study.measure
        trained = horizon == arm.recipe.block_size
        last = variant.history[-1] if trained and variant.history else {}
        model = variant.export(bench.corpus.scale)
        record = Measurement(
            arm=arm,
            step=variant.step,
            horizon=horizon,
            loss=last.get("loss"),
            train_time_tau=last.get("train_time_tau"),
            replayed=tuple(
                item
                for part in answers
                for item in replayed(model, bench, part, measure, horizon, rewards=trained)
            ),
        )
        self.writer.append(record)
        self.known.add(key_of(record))

    def _bench(self, responses: Responses) -> Workbench:
        """Target and corpus; one corpus serves all budgets."""
        if responses not in self.benches:
            from drafters.block_diffusion.workbench import open_workbench

            study = self.study
            most = max(arm.recipe.steps for arm in study.arms)
            config = replace(study.train, steps=most, responses=responses)
            bench = open_workbench(config, study.objectives.values())
            facts: dict[str, Any] = bench.settings(config)
            note_bench(self.files, responses, {name: facts[name] for name in ("target", "data")})
            self.benches[responses] = bench
        return self.benches[responses]

    def _load_answers(self) -> None:
        from harness.study_answers import held_back_answers, run_answers

        if not self.answers:
            # The target's own answers, also where drafters are trained on others.
            bench, study = self._bench("target"), self.study
            self.answers = [held_back_answers(bench, study.train, study.measure)]
            self.answers += [
                part
                for run in self.runs
                for part in run_answers(bench, study.train, study.measure, run)
            ]
