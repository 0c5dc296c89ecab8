"""The model of lm-evaluation-harness: our loop answers, the target scores, nothing is dropped."""

from __future__ import annotations

import json
import logging
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_model import write_model

pytest.importorskip("lm_eval", reason="lm-eval is not installed")

from lm_eval.api.instance import Instance

from drafters.none import NoDrafter
from harness import lm_eval_docs
from harness.cli import main
from harness.decode import generate
from harness.errors import UserError
from harness.gen_kwargs import DEFAULT_MAX_NEW_TOKENS, read_gen_kwargs
from harness.lm_eval_model import HarnessModel
from harness.model_args import ModelArgs
from harness.sampling import Sampling, generation_seed
from targets.base import TargetOptions
from targets.load import load_target
from targets.transformers_lm import TransformersTarget

CONTEXT = "w3 w1 w4 w1 w5"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No address may be looked up: a call to the hub is an error at once."""

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise AssertionError(f"network: {arguments}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.delenv("HARNESS_DATA_DIR", raising=False)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def target(directory: Path) -> TransformersTarget:
    found = load_target(TargetOptions(name=str(directory), dtype="float32"))
    assert isinstance(found, TransformersTarget)
    return found


@pytest.fixture(scope="module")
def model(target: TransformersTarget) -> HarnessModel:
    return HarnessModel(target, ModelArgs(drafter="ngram", dtype="float32", seed=3))


def request(kind: str, *arguments: Any, doc_id: int = 0) -> Instance:
    return Instance(kind, {}, arguments, 0, metadata=("a_task", doc_id, 1))


def asked(context: str, doc_id: int = 0, **gen_kwargs: Any) -> Instance:
    return request("generate_until", context, gen_kwargs, doc_id=doc_id)


def test_answers_are_those_of_the_loop(target: TransformersTarget, model: HarnessModel) -> None:
    ids = model.tok_encode(CONTEXT)
    wanted = generate(target, NoDrafter(), ids, sampling=Sampling(), max_new_tokens=24)
    [text] = model.generate_until([asked(CONTEXT, until=[], max_gen_toks=24)])
    assert text == target.decode(wanted.new_tokens) and len(text.split()) > 3


def test_sampled_answers_have_a_seed_each(target: TransformersTarget, model: HarnessModel) -> None:
    rules = {"do_sample": True, "temperature": 1.5, "top_p": 0.9, "max_gen_toks": 12}
    requests = [asked(CONTEXT, doc_id=doc_id, **rules) for doc_id in (0, 1)]
    texts = model.generate_until([requests[0], requests[0], requests[1]])
    assert len(set(texts)) == 3
    assert model.generate_until(requests[::-1]) == [texts[2], texts[0]]
    baseline = HarnessModel(target, ModelArgs(seed=3))
    seed = generation_seed(3, "a_task", "1", 1, 0)
    wanted = generate(
        target,
        NoDrafter(),
        model.tok_encode(CONTEXT),
        sampling=Sampling(1.5, 0.9, 0, seed),
        max_new_tokens=12,
    )
    assert baseline.generate_until([requests[1]]) == [target.decode(wanted.new_tokens)]


def test_an_answer_is_cut_before_the_first_stop_string(model: HarnessModel) -> None:
    [whole] = model.generate_until([asked(CONTEXT, max_gen_toks=24)])
    words = whole.split()
    first, later = words[2], next(word for word in words[3:] if word not in words[:3])
    [text] = model.generate_until([asked(CONTEXT, until=[later, first], max_gen_toks=24)])
    assert text == whole[: min(whole.index(first), whole.index(later))]
    [text] = model.generate_until([asked(CONTEXT, until=first, max_gen_toks=24)])
    assert text == whole[: whole.index(first)]


def test_a_likelihood_is_the_sum_of_the_targets(
    target: TransformersTarget, model: HarnessModel
) -> None:
    contexts = [f"{CONTEXT} w{i}" for i in range(20)]
    answers = model.generate_until([asked(context, max_gen_toks=3) for context in contexts])
    # Special tokens leave no text behind.
    context, greedy = next(
        pair for pair in zip(contexts, answers, strict=True) if len(pair[1].split()) == 3
    )
    for continuation in (f" {greedy}", " w7 w7 w2"):
        ids = model.tok_encode(context + continuation)
        begin = len(model.tok_encode(context))
        with torch.no_grad():
            logits = target.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        steps = [logits[i - 1].log_softmax(-1) for i in range(begin, len(ids))]
        wanted = sum(float(row[ids[begin + i]]) for i, row in enumerate(steps))
        best = all(int(row.argmax()) == ids[begin + i] for i, row in enumerate(steps))
        [(found, is_greedy)] = model.loglikelihood(
            [request("loglikelihood", context, continuation)]
        )
        assert found == pytest.approx(wanted, abs=1e-4)
        assert is_greedy is best
        assert best is (continuation == f" {greedy}")


def test_a_rolling_likelihood_counts_every_token_once(
    model: HarnessModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = " ".join(f"w{i % 40}" for i in range(30))
    [whole] = model.loglikelihood_rolling([request("loglikelihood_rolling", text)])
    [(same, _)] = model.loglikelihood([request("loglikelihood", "", text)])
    assert whole == pytest.approx(same, abs=1e-4)
    monkeypatch.setattr(HarnessModel, "max_length", 10)
    ids = model.tok_encode(text)
    parts = [
        model._score([model.prefix_token_id, *ids][i * 10 : i * 10 + 1], ids[i * 10 : i * 10 + 10])
        for i in range(3)
    ]
    [windows] = model.loglikelihood_rolling([request("loglikelihood_rolling", text)])
    assert windows == pytest.approx(sum(part[0] for part in parts), abs=1e-4)
    assert windows != pytest.approx(whole, abs=1e-2)


def test_a_templates_text_reads_as_the_conversation(
    target: TransformersTarget, model: HarnessModel
) -> None:
    messages = [{"role": "user", "content": CONTEXT}]
    text = model.apply_chat_template(messages)
    assert model.tok_encode(text) == target.encode_chat(messages)
    assert model.chat_template(True) == target.tokenizer.chat_template
    assert "/" not in model.tokenizer_name
    with pytest.raises(UserError, match="name none"):
        model.chat_template("other")


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"drafer": "ngram"}, "unknown model argument 'drafer'; did you mean drafter"),
        ({"dtype": "float16"}, "dtype is one of bfloat16, float32, not 'float16'"),
        ({"block_size": "four"}, "block_size takes int, not 'four'"),
        ({"seed": True}, "seed takes int, not True"),
        ({"batch_size": "auto"}, "leave --batch_size out"),
        ({"target": "smolm"}, "unknown target 'smolm'"),
    ],
)
def test_model_arguments_are_refused_by_name(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint.replace("(", r"\(")):
        HarnessModel.create_from_arg_obj({}, given)


def test_a_drafter_that_is_not_there_is_refused(target: TransformersTarget) -> None:
    with pytest.raises(UserError, match="unknown drafter 'ngrm'; did you mean ngram"):
        HarnessModel(target, ModelArgs(drafter="ngrm"))
    with pytest.raises(UserError, match="must be told the answer"):
        HarnessModel(target, ModelArgs(drafter="synthetic=0.8"))


def test_a_target_without_a_tokenizer_is_refused() -> None:
    import toy

    with pytest.raises(UserError, match="no tokenizer"):
        HarnessModel(toy.llama(), ModelArgs())


@pytest.mark.parametrize(
    ("given", "rules", "limit"),
    [
        ({}, Sampling(seed=5), DEFAULT_MAX_NEW_TOKENS),
        ({"do_sample": False, "temperature": 0.0, "max_gen_toks": 7}, Sampling(seed=5), 7),
        ({"do_sample": True, "max_tokens": 7}, Sampling(1.0, seed=5), 7),
        ({"temperature": 0.6, "top_p": 0.9, "top_k": 4}, Sampling(0.6, 0.9, 4, 5), 256),
        ({"do_sample": False, "temperature": 1.0}, Sampling(seed=5), 256),
        ({"top_p": None, "top_k": None, "temperature": None}, Sampling(seed=5), 256),
        ({"max_gen_toks": 12.0, "until": None, "do_sample": None}, Sampling(seed=5), 12),
    ],
)
def test_generation_arguments_are_honoured(
    given: dict[str, Any], rules: Sampling, limit: int
) -> None:
    request = read_gen_kwargs(given, seed=5)
    assert (request.sampling, request.max_new_tokens) == (rules, limit)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"repetition_penalty": 1.1}, "'repetition_penalty' cannot be honoured"),
        ({"untill": ["x"]}, "did you mean until"),
        ({"max_gen_toks": 4, "max_new_tokens": 5}, r"several limits: \[4, 5\]"),
        ({"max_gen_toks": 0}, "at least 1"),
        ({"do_sample": True, "temperature": 0}, "needs a temperature above 0"),
        ({"until": ["a", ""]}, "not empty"),
        ({"top_p": 2.0}, "top_p must be in"),
        ({"max_gen_toks": "many"}, "max_gen_toks must be a whole number, not 'many'"),
        ({"max_gen_toks": float("inf")}, "max_gen_toks must be a whole number, not inf"),
        ({"max_tokens": 12.7}, "max_tokens must be a whole number, not 12.7"),
        ({"until": 5}, "until must hold texts"),
        ({"until": {"a": 1}}, "until must hold texts"),
        ({"temperature": 1.0, "top_k": 2.9}, "top_k must be a whole number, not 2.9"),
        ({"top_k": True}, "top_k must be a whole number, not True"),
        ({"do_sample": "no"}, "do_sample must be true or false, not 'no'"),
        ({"temperature": float("nan")}, "temperature must be a finite number, not nan"),
        ({"top_p": 10**400}, "top_p must be a finite number"),
    ],
)
def test_generation_arguments_are_refused(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        read_gen_kwargs(given, seed=0)


def test_sampling_refuses_what_is_no_number() -> None:
    for temperature in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="finite"):
            Sampling(temperature)


def test_a_right_answer_passes_and_a_wrong_one_does_not() -> None:
    docs = lm_eval_docs.dataset("gsm8k", version=1)["test"]
    assert len(docs) >= 4 and {doc["source"] for doc in docs} == {"samples"}
    for doc in docs:
        solution = json.loads(doc["reference"])["solution"]
        assert lm_eval_docs.score(doc, [solution]) == {"passed": 1.0}
        assert lm_eval_docs.score(doc, ["no number here"]) == {"passed": 0.0}


def test_prompts_of_mbpp_show_their_tests() -> None:
    doc = lm_eval_docs.dataset("mbpp")["test"][0]
    text = lm_eval_docs.prompt_with_tests(doc)
    assert text.startswith(doc["prompt"])
    assert all(test in text for test in json.loads(doc["reference"])["tests"])


@pytest.fixture
def quick_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """lm-eval's command line without its scan of its own tasks and of what pip has installed."""
    import lm_eval.evaluator
    from lm_eval.tasks import TaskManager

    monkeypatch.setattr(lm_eval.evaluator, "add_env_info", lambda results: None)
    monkeypatch.setattr(TaskManager.__init__, "__defaults__", (None, None, False, None))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    loggers = [logging.getLogger(name) for name in (None, "lm_eval")]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:  # an earlier test's handlers write to streams that are closed by now
        logger.handlers = []
    yield
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


YAML = """
task: {task}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: {kind}
doc_to_text: question
doc_to_target: answer
target_delimiter: " "
"""


@pytest.mark.usefixtures("quick_command_line")
def test_lm_evals_own_command_line_runs_a_task_offline(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A task of somebody's own, by likelihood, on the target and the drafter asked for."""
    data = tmp_path / "rows.jsonl"
    rows = [{"question": CONTEXT, "answer": "w7 w7"}, {"question": "w2", "answer": "w9"}]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "task.yaml").write_text(YAML.format(task="ours", data=data, kind="loglikelihood"))
    arguments = f"target={directory},drafter=ngram,dtype=float32"
    found = tmp_path / "found.json"
    assert (
        main(
            [
                *("lm-eval", "run", "--model", "harness", "--model_args", arguments),
                *("--tasks", str(tmp_path / "task.yaml"), "--output_path", str(found)),
            ]
        )
        == 0
    )
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    header, _, row = ([cell.strip() for cell in line.strip("|").split("|")] for line in table[:3])
    # An older table library puts letters of the alphabet in the place of lm-eval's words.
    words = ["Tasks", "Version", "Filter", "n-shot", "Metric", "", "Value", "", "Stderr"]
    assert (header, row[0]) == (words, "ours")
    [written] = tmp_path.glob("found_*.json")
    results = json.loads(written.read_text())
    assert results["results"]["ours"]["acc,none"] in (0.0, 0.5, 1.0)
    assert results["n-samples"]["ours"]["effective"] == 2
    assert results["config"]["drafter"] == "ngram"
    assert results["config"]["target"]["dtype"] == "float32"


@pytest.mark.parametrize(
    ("given", "known"),
    [
        (["run", "--tasks", "harness_gsm8k"], True),
        (["--tasks", "harness_gsm8k"], True),
        (["ls", "tasks"], True),
        (["--tasks", "ours", "--include_path", "here"], False),
        (["--help"], False),
        ([], False),
    ],
)
def test_our_tasks_are_known_in_either_form(
    given: list[str], known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lm_eval.__main__

    from harness import lm_eval_model

    seen: list[list[str]] = []
    monkeypatch.setattr(lm_eval.__main__, "cli_evaluate", lambda: seen.append(sys.argv[1:]))
    monkeypatch.setattr(lm_eval_model, "register_model", lambda name: lambda model: model)
    assert lm_eval_model.main(given) == 0
    old = given[:1] == ["--tasks"]
    ours = ["--include_path", str(lm_eval_model.TASKS)] if known else []
    assert seen == [[*(["run"] if old else []), *given, *ours]]


@pytest.mark.usefixtures("quick_command_line")
def test_the_command_line_refuses_with_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["lm-eval", "run", "--model", "harness", "--tasks", "harness_gsm8k"]
    assert main([*arguments, "--model_args", "drafer=ngram"]) == 2
    error = capsys.readouterr().err
    assert "error: unknown model argument 'drafer'" in error and "Traceback" not in error


@pytest.mark.usefixtures("quick_command_line")
def test_a_task_that_lm_eval_does_not_have_is_one_sentence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["lm-eval", "run", "--model", "harness", "--tasks", "no_such_task"]) == 2
    error = capsys.readouterr().err
    assert "error: lm-eval: " in error and "no_such_task" in error and "Traceback" not in error
