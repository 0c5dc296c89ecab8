"""What ``config.json`` and ``environment.json`` of a run must hold for others to read them.

No postponed annotations here: ``NotRequired`` is only seen in real ones.
"""

from typing import Literal, NotRequired, TypedDict


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

    vocabulary: NotRequired[int]


class StartFacts(TypedDict):
    """The checkpoint that a training went on from."""

    weights_sha256: str
    training: "TrainingFacts | None"


class TrainingFacts(TypedDict):
    """``training.json`` of a checkpoint, as far as others read it."""

    objective: NotRequired[ObjectiveFacts]
    steps: NotRequired[int]
    start_from: NotRequired[StartFacts]
    seed: NotRequired[int]
    train_vocab_size: NotRequired[int]
    data: NotRequired[DataFacts]


class CheckpointFacts(TypedDict):
    """A drafter's weights."""

    path: NotRequired[str | None]
    revision: NotRequired[str | None]
    weights_sha256: NotRequired[str | None]
    num_parameters: NotRequired[int | None]
    objective: NotRequired[ObjectiveFacts | None]
    training: NotRequired[TrainingFacts | None]


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
    block_size: NotRequired[int | None]
    draft: NotRequired[str | None]
    checkpoint: NotRequired[CheckpointFacts | None]


class SourceFacts(TypedDict):
    """Where prompts came from."""

    kind: str
    location: str
    revision: str | None
    digest: str
    num_rows: int


class TaskFacts(TypedDict):
    """A task and its prompts."""

    task: str
    source: SourceFacts
    prompt_ids: list[str]
    num_turns: NotRequired[list[int]]
    """Of each prompt, in the same order."""


class SamplingFacts(TypedDict):
    """How tokens were drawn."""

    temperature: float
    top_p: float
    top_k: int


class RunFacts(TypedDict):
    """``config.json``."""

    run_id: str
    target: TargetFacts
    methods: list[MethodFacts]
    tasks: list[TaskFacts]
    sampling: SamplingFacts
    max_new_tokens: int
    repeats: int
    seed: NotRequired[int]
    limit: NotRequired[int | None]


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
    hardware: dict[str, str | int | float | bool | None]
    plugins: NotRequired[list[PluginFacts]]
    resumed: NotRequired[list[ResumedFacts]]
