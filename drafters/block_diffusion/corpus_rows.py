"""The rows of a corpus: what came with the prompts, and what the target answers to the others."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drafters.block_diffusion.batch_generator import BatchGenerator
from drafters.block_diffusion.corpus_files import CorpusRow, RowWriter
from drafters.block_diffusion.endpoint import EndpointGenerator
from drafters.block_diffusion.prompt_sources import SourcedPrompt
from drafters.block_diffusion.responses import Query, ResponseGenerator
from harness.data_config import DataConfig
from harness.errors import UserError
from harness.progress import Progress, say
from harness.sampling import generation_seed
from targets.transformers_lm import TransformersTarget


@dataclass(frozen=True, slots=True)
class Missing:
    """A response that is not there yet."""

    prompt: SourcedPrompt
    sample: int
    query: Query


class RowBuilder:
    """Makes rows, each written before the next."""

    def __init__(
        self,
        config: DataConfig,
        prompts: Sequence[SourcedPrompt],
        target: TransformersTarget,
        rows: Sequence[CorpusRow],
    ) -> None:
        """Take up what is there.

        Args:
            config: what was asked.
            prompts: of the corpus, in its order.
            target: tokenises, and generates unless a server does.
            rows: made before.
        """
        self.config = config
        self.prompts = prompts
        self.target = target
        self._rows = {(row.prompt, row.sample): row for row in rows}

    def ordered(self) -> list[CorpusRow]:
        """All rows, in the prompts' order."""
        places = {prompt.prompt: place for place, prompt in enumerate(self.prompts)}
        return [self._rows[key] for key in sorted(self._rows, key=lambda k: (places[k[0]], k[1]))]

    def add_given(self, writer: RowWriter) -> None:
        """Write the responses that came with the prompts.

        Raises:
            UserError: a response of another tokenizer.
        """
        rows = [
            self._row(prompt, sample, row.response_ids or (), None, row.sampling)
            for prompt in self.prompts
            for sample, row in enumerate(prompt.responses)
            if (prompt.prompt, sample) not in self._rows
        ]
        if rows:  # at once: the disk is waited for at every call
            writer.write("\n".join(row.to_json() for row in rows))
        self._rows |= {(row.prompt, row.sample): row for row in rows}

    def missing(self) -> tuple[list[Missing], int]:
        """What is still to be generated, and the prompts that leave the target no room."""
        found: list[Missing] = []
        num_too_long = 0
        for prompt in self.prompts:
            if prompt.responses:
                continue
            ids = tuple(self.target.encode_chat([{"role": "user", "content": prompt.prompt}]))
            if len(ids) >= self.target.max_context:
                num_too_long += 1
                continue
            for sample in range(self.config.samples):
                if (prompt.prompt, sample) not in self._rows:
                    seed = generation_seed(self.config.seed, "data", prompt.prompt, 0, sample)
                    found.append(Missing(prompt, sample, Query(ids, seed)))
        return found, num_too_long

    def generate(self, missing: Sequence[Missing], writer: RowWriter) -> dict[str, Any]:
        """Generate and write; returns what this sitting did, and how fast.

        Raises:
            UserError: no memory, no disk, or a server that fails.
        """
        if not missing:
            return {"num_responses": 0}
        generator, name = self._generator()
        sampling = dataclasses.asdict(self.config.sampling)
        num_tokens = num_responses = 0
        started = time.perf_counter()
        with Progress(len(missing), "responses") as bar, self._told(missing):
            for index, ids in generator.generate([item.query for item in missing]):
                made = missing[index]
                row = self._row(made.prompt, made.sample, ids, name, sampling)
                writer.append(row)
                self._rows[row.prompt, row.sample] = row
                num_responses, num_tokens = num_responses + 1, num_tokens + len(ids)
                bar.step(f"{num_tokens / (time.perf_counter() - started):.0f} tokens/s")
        wall_s = time.perf_counter() - started
        return {
            "num_responses": num_responses,
            "num_tokens": num_tokens,
            "wall_s": round(wall_s, 1),
            "tokens_per_s": round(num_tokens / wall_s, 1),
        }

    def _generator(self) -> tuple[ResponseGenerator, str]:
        config, target = self.config, self.target
        if config.endpoint is None:
            own = BatchGenerator(
                target,
                config.max_new_tokens,
                sampling=config.sampling,
                batch_size=config.batch_size,
            )
            return own, "target"
        engine = EndpointGenerator(
            config.endpoint,
            config.max_new_tokens,
            stop_ids=target.stop_ids,
            max_context=target.max_context,
            sampling=config.sampling,
            batch_size=config.batch_size,
        )
        say(f"server   {config.endpoint} serves {engine.model}")
        return engine, f"server of {engine.model}"

    @contextlib.contextmanager
    def _told(self, missing: Sequence[Missing]) -> Iterator[None]:
        """Say what is there when it ends early."""
        try:
            yield
        except (KeyboardInterrupt, UserError):
            there = sum((item.prompt.prompt, item.sample) in self._rows for item in missing)
            say(
                f"stopped  {there} of {len(missing)} responses of this call are in "
                f"{self.config.output_dir}; the same command goes on."
            )
            raise

    def _row(
        self,
        prompt: SourcedPrompt,
        sample: int,
        ids: Sequence[int],
        generator: str | None,
        sampling: Mapping[str, Any] | None,
    ) -> CorpusRow:
        if max(ids) >= self.target.vocab_size:
            raise UserError(
                f"{prompt.source} holds responses of another tokenizer (token {max(ids)}, "
                f"{self.target.name} has {self.target.vocab_size}); remove response_ids or change "
                "the target."
            )
        return CorpusRow(
            prompt=prompt.prompt,
            source=prompt.source,
            licence=prompt.licence,
            response_ids=tuple(ids),
            finished=ids[-1] in self.target.stop_ids,
            generator=generator,
            sampling=None if sampling is None else dict(sampling),
            sample=sample,
            reference_ids=self._reference(prompt),
        )

    def _reference(self, prompt: SourcedPrompt) -> tuple[int, ...] | None:
        """The data set's own answer as the target would write it: its tokens and a stop token."""
        if prompt.reference_ids is not None:
            return prompt.reference_ids
        if prompt.reference is None:
            return None
        ids = self.target.tokenizer(prompt.reference.strip(), add_special_tokens=False)["input_ids"]
        return (*ids, *sorted(self.target.stop_ids)[:1])
