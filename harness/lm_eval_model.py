"""Any target with a drafter in front of it, as a model of lm-evaluation-harness.

That package finds no models outside itself, so its command line is entered through this module:
``python -m harness lm-eval run --model harness --model_args target=…,drafter=…``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from drafters.base import Drafter
from harness import registry, template_date
from harness.decode import generate
from harness.errors import UserError, one_line
from harness.gen_kwargs import Request, read_gen_kwargs
from harness.model_args import ModelArgs, build_drafter, check_drafter
from harness.plan import resolve_device
from harness.progress import Progress
from harness.sampling import generation_seed
from targets.base import TargetOptions
from targets.find import check_target
from targets.load import load_target
from targets.transformers_lm import TransformersTarget

_LOG = logging.getLogger(__name__)

NAME = "harness"
TASKS = Path(__file__).parent / "lm_eval_tasks"

_ROWS = 512
"""Rows of logits that are made float32 at a time."""


class HarnessModel(TemplateLM):
    """Answers by the harness's decode loop; likelihoods are the target's own."""

    def __init__(self, target: Any, arguments: ModelArgs) -> None:
        """Put a drafter in front of a loaded target.

        Args:
            target: a target with a tokenizer.
            arguments: those of the drafter, and the seed.

        Raises:
            UserError: the target reads no text, or the drafter cannot be built.
        """
        super().__init__()
        if not isinstance(target, TransformersTarget) or target.tokenizer is None:
            raise UserError(f"target {target.name} has no tokenizer, which lm-eval needs.")
        self.target = target
        self.tokenizer = target.tokenizer
        self._device = target.device
        self._arguments = arguments
        self._drafters: dict[bool, Drafter] = {}
        self._drafter(greedy=True)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> HarnessModel:
        """What lm-eval calls: ``--model_args``, and flags of its own that concern a model."""
        flags = {k: v for k, v in (additional_config or {}).items() if v is not None}
        for name in ("batch_size", "max_batch_size"):
            if str(flags.pop(name, 1)) != "1":
                raise UserError(f"one answer at a time is decoded here; leave --{name} out.")
        if flags.get("device") == "cuda:0":  # lm-eval's default, said or not
            flags["device"] = "auto"
        arguments = ModelArgs.read({**flags, **arg_dict})
        if arguments.plugin is not None:
            registry.load_plugin(Path(arguments.plugin))
        options = TargetOptions(
            name=arguments.target,
            dtype=arguments.dtype,
            device=resolve_device(arguments.device),
            attn=arguments.attn,
            revision=arguments.revision,
            enable_thinking=arguments.enable_thinking,
            template_date=arguments.template_date or template_date.today(),
        )
        check_target(options)
        check_drafter(arguments)
        return cls(load_target(options), arguments)

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: Mapping[str, Any] | None = None
    ) -> HarnessModel:
        """The same from ``name=value,name=value``."""
        from lm_eval.utils import simple_parse_args_string

        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What a text without context is conditioned on."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def max_length(self) -> int:
        """Tokens of context and continuation together."""
        return self.target.max_context

    @property
    def tokenizer_name(self) -> str:
        """Names tokenizer and template in lm-eval's cache of requests."""
        facts = self.target.describe()
        parts = [facts["name"], facts["template_sha256"] or "plain", facts["enable_thinking"]]
        parts += [facts["template_date"]] if facts["template_date"] else []
        return "--".join(str(part).replace("/", "__") for part in parts)

    def get_model_info(self) -> dict[str, Any]:
        """Facts that lm-eval writes beside its results."""
        return {
            "drafter": self._arguments.drafter,
            "checkpoint": getattr(self._drafter(greedy=True), "checkpoint", None),
            "target": dict(self.target.describe()),
        }

    @property
    def fingerprint(self) -> str:
        """Tells answers of different targets, drafters, checkpoints and seeds apart."""
        facts = json.dumps([self.get_model_info(), self._arguments.seed], sort_keys=True)
        return hashlib.sha256(facts.encode()).hexdigest()[:16]

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The target's template.

        Raises:
            UserError: a template is asked for by name.
        """
        if isinstance(chat_template, str):
            raise UserError("the target's own chat template is used; name none.")
        template = self.tokenizer.chat_template
        return template if chat_template and isinstance(template, str) else None

    def apply_chat_template(
        self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Text of a conversation; an unfinished last message is left open.

        Raises:
            UserError: the target has no template.
        """
        if not self.tokenizer.chat_template:
            raise UserError(
                f"target {self.target.name} has no chat template; leave --apply_chat_template out."
            )
        return self.target.chat.render(chat_history, add_generation_prompt=add_generation_prompt)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Ids of a text; unless told, without special tokens where a template has put them."""
        if add_special_tokens is None:
            bos = self.tokenizer.bos_token
            add_special_tokens = bos is None or not string.startswith(bos)
        ids = self.tokenizer(string, add_special_tokens=add_special_tokens)["input_ids"]
        return list(ids)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers, each cut before the first stop string; one seed a request."""
        repeats: Counter[tuple[str, str, int]] = Counter()
        texts = []
        with Progress(len(requests), self._arguments.drafter) as bar:
            for request in requests:
                context, gen_kwargs = request.args
                key = (str(request.task_name), str(request.doc_id), int(request.idx))
                seed = generation_seed(
                    self._arguments.seed, key[0], key[1], key[2] + 1, repeats[key]
                )
                repeats[key] += 1
                text = self._answer(context, read_gen_kwargs(gen_kwargs, seed))
                texts.append(text)
                self.cache_hook.add_partial("generate_until", request.args, text)
                bar.step(key[0])
        return texts

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-probability of whole texts, in windows as long as the context."""
        totals = []
        for request in requests:
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            total = sum(self._score(*make_disjoint_window(window))[0] for window in windows)
            totals.append(total)
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        answers = []
        with Progress(len(requests), "likelihoods") as bar:
            for texts, context, continuation in requests:
                answers.append(self._score(context, continuation))
                self.cache_hook.add_partial("loglikelihood", texts, answers[-1])
                bar.step("")
        return answers

    def _drafter(self, *, greedy: bool) -> Drafter:
        """Built once for greedy requests and once for sampled ones: drafts may differ."""
        if greedy not in self._drafters:
            drafter = build_drafter(self.target, self._arguments, greedy=greedy)
            self._drafters[greedy] = drafter
        return self._drafters[greedy]

    def _answer(self, context: str, request: Request) -> str:
        decoded = generate(
            self.target,
            self._drafter(greedy=request.sampling.greedy),
            self.tok_encode(context),
            sampling=request.sampling,
            max_new_tokens=request.max_new_tokens,
            stop_strings=request.stop_strings,
        )
        return self._cut(decoded.new_tokens, request.stop_strings)

    def _cut(self, ids: Sequence[int], stop_strings: Sequence[str]) -> str:
        """Text before the first stop string, which may hold special tokens."""
        text = self.target.decode(ids)
        if ends := [at for stop in stop_strings if (at := text.find(stop)) >= 0]:
            return text[: min(ends)]
        whole = self.target.decode_whole(ids)
        if ends := [at for stop in stop_strings if (at := whole.find(stop)) >= 0]:
            counts = range(len(ids), -1, -1)
            kept = (n for n in counts if len(self.target.decode_whole(ids[:n])) <= min(ends))
            return self.target.decode(ids[: next(kept)])
        return text

    @torch.inference_mode()
    def _score(self, context: Sequence[int], continuation: Sequence[int]) -> tuple[float, bool]:
        """Log-probability of ``continuation``, and whether greedy decoding would write it.

        The logits are the model's last, soft cap and scale included; softmax is float32.
        """
        if not continuation:
            return 0.0, True
        ids = [*context, *continuation][:-1]
        if len(ids) > self.max_length:
            _LOG.warning("%d tokens of context do not fit and are cut", len(ids) - self.max_length)
            ids = ids[-self.max_length :]
        self.target.prepare()
        self.target.expect(len(ids))
        output = self.target.model(
            input_ids=torch.tensor([ids], device=self.target.device),
            use_cache=False,
            logits_to_keep=len(continuation),
        )
        wanted = torch.tensor(continuation, device=self.target.device)
        total, greedy = 0.0, True
        for logits, tokens in zip(output.logits[0].split(_ROWS), wanted.split(_ROWS), strict=True):
            greedy = greedy and bool((logits.argmax(-1) == tokens).all())
            chosen = logits.float().log_softmax(-1).gather(-1, tokens[:, None])
            total += float(chosen.double().sum())
        return total, greedy


def main(arguments: Sequence[str]) -> int:
    """lm-eval's own command line, with this project's model and tasks known to it."""
    from lm_eval.__main__ import cli_evaluate

    register_model(NAME)(HarnessModel)
    rest = list(arguments)
    if rest and rest[0].startswith("-") and rest[0] not in ("-h", "--help"):
        rest.insert(0, "run")  # lm-eval's older form, which it still takes
    asked = rest[:1] in (["run"], ["ls"], ["validate"])
    if asked and not any(text.startswith("--include_path") for text in rest):
        rest += ["--include_path", str(TASKS)]
    before = sys.argv
    sys.argv = ["lm-eval", *rest]
    try:
        cli_evaluate()
    except ValueError as error:  # what it has against tasks and flags
        raise UserError(f"lm-eval: {one_line(error).partition(': ')[2].rstrip('.')}.") from error
    finally:
        sys.argv = before
    return 0
