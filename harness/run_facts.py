"""``config.json`` and ``environment.json`` of a run: what is written, and all that others read.

Writers and readers share these types: mypy sees a key that is not here, `harness.typed_json.typed`
a value of another type or size. What older runs lack is not required. Other keys may be there, and
nothing reads them.

No postponed annotations here: ``NotRequired`` is only seen in real ones.
"""

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from harness.bounds import Between, Count, Depth, Seed, Share, Small, Temperature


class ForeignFacts(TypedDict):
    """A file of code from outside of this project."""

    file: str
    """Its name, or the module's where there is no file."""
    sha256: str | None
    """None where there is no file."""


class TargetFacts(TypedDict):
    """The model that decided."""

    name: str
    model: NotRequired[str | None]
    weights_sha256: NotRequired[str | None]
    template_sha256: NotRequired[str | None]
    dtype: NotRequired[str | None]
    device: NotRequired[str]
    attn: NotRequired[str | None]
    revision: NotRequired[str | None]
    enable_thinking: NotRequired[bool | None]
    template_date: NotRequired[str | None]
    """ISO date written into prompts; null where the template writes none."""
    exact_rows: NotRequired[Small | None]
    """Of every pass in exact mode."""
    rope_switch: NotRequired[Count | None]
    """Tokens at which rotary factors change; null where they do not."""
    foreign: NotRequired[ForeignFacts]


class ObjectiveFacts(TypedDict):
    """The row a drafter was trained on; a gamma of null is infinity."""

    gamma: float | None
    alpha_focal: float
    alpha_chain: float
    ce_reduction: str
    alpha_ce: NotRequired[float]
    dpace_alpha: NotRequired[float | None]
    ce_until_error: NotRequired[bool]
    distill: NotRequired[float]
    reward: NotRequired[str]
    prefix_decay: NotRequired[float | None]


class DataFacts(TypedDict):
    """What a drafter was trained on."""

    name: NotRequired[str | None]
    vocabulary: NotRequired[Count | None]


class StartFacts(TypedDict):
    """The checkpoint that a training went on from."""

    weights_sha256: str
    training: "TrainingFacts | None"


Scalar = str | int | float | bool | None
Hardware = dict[str, Scalar]
"""Processor, cores, threads, memory and GPU."""


class RecommendedFacts(TypedDict):
    """What a checkpoint decodes with on one kind of device, as ``harness tune`` found."""

    block_size: Count
    decode_speedups: NotRequired[dict[str, float]]
    num_prompts: NotRequired[Count]


class TrainingFacts(TypedDict):
    """``training.json`` of a checkpoint, as far as others read it."""

    name: NotRequired[str | None]
    objective: NotRequired[ObjectiveFacts]
    steps: NotRequired[Count]
    start_from: NotRequired[StartFacts]
    seed: NotRequired[int]
    train_vocab_size: NotRequired[Count]
    data: NotRequired[DataFacts]
    hardware: NotRequired[Hardware]
    recommended_block_size: NotRequired[dict[str, RecommendedFacts]]
    """By kind of device: cpu, cuda."""


class CheckpointFacts(TypedDict):
    """A drafter's weights."""

    path: NotRequired[str | None]
    revision: NotRequired[str | None]
    weights_sha256: NotRequired[str | None]
    num_parameters: NotRequired[Count | None]
    objective: NotRequired[ObjectiveFacts | None]
    training: NotRequired[TrainingFacts | None]
    second: NotRequired["CheckpointFacts | None"]
    """Of a drafter that works with this one."""


class PolicyFacts(TypedDict):
    """A proposal policy and the settings it was given."""

    policy: str
    settings: dict[str, str]


class MethodFacts(TypedDict):
    """A baseline or drafter."""

    method: str
    kind: Literal["baseline", "drafter"]
    drafter: NotRequired[str]
    argument: NotRequired[str | None]
    policies: NotRequired[list[PolicyFacts]]
    """Put over the drafter, the last one outermost."""
    policies_resolved: NotRequired[Any]
    """Every setting of the policies, their defaults among them."""
    block_size: NotRequired[Depth | None]
    draft: NotRequired[str | None]
    draft_vocab_size: NotRequired[Count | None]
    oracle: NotRequired[bool | None]
    """Whether it is told the answers."""
    checkpoint: NotRequired[CheckpointFacts | None]
    remembers: NotRequired[bool]
    """Whether it keeps what it learnt from one answer for the next."""
    foreign: NotRequired[ForeignFacts | None]


class SourceFacts(TypedDict):
    """Where prompts came from."""

    kind: str
    location: str
    revision: str | None
    digest: str
    num_rows: Count
    note: NotRequired[str | None]


class TaskFacts(TypedDict):
    """A task and its prompts."""

    task: str
    source: SourceFacts
    prompt_ids: list[str]
    num_turns: NotRequired[list[Small]]
    """Of each prompt, in the same order."""
    foreign: NotRequired[ForeignFacts]


class SamplingFacts(TypedDict):
    """How tokens were drawn."""

    temperature: Temperature
    top_p: Share
    top_k: Count


class ConfigFacts(TypedDict):
    """``config.json`` without the run id: all that makes two runs the same run."""

    schema_version: NotRequired[int]
    target: TargetFacts
    methods: list[MethodFacts]
    tasks: list[TaskFacts]
    sampling: SamplingFacts
    max_new_tokens: Count
    repeats: Annotated[int, Between(1, 2**16)]
    seed: NotRequired[Seed]
    limit: NotRequired[Count | None]


class RunFacts(ConfigFacts):
    """``config.json``."""

    run_id: str


class ResumedFacts(TypedDict):
    """One start of a run."""

    commit: str | None
    dirty: bool | None
    started_at: str


class PluginFacts(TypedDict):
    """A plug-in file."""

    name: str
    sha256: str


class EnvironmentFacts(ResumedFacts):
    """``environment.json``."""

    argv: list[str]
    versions: dict[str, str | None]
    hardware: Hardware
    plugins: NotRequired[list[PluginFacts]]
    resumed: NotRequired[list[ResumedFacts]]
