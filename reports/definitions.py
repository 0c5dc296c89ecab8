"""What every number on the page means."""

DEFINITIONS: tuple[tuple[str, str], ...] = (
    (
        "Round",
        "One proposal of the drafter and the single target pass that judges it. The token that "
        "comes out of reading the prompt has no round.",
    ),
    (
        "τ, accepted length",
        "Tokens committed over rounds, both summed over all answers of a task. The token the "
        "target adds by itself counts; tokens behind a stop or the length limit do not. Decoding "
        "one token a pass has τ = 1. A method that shows no rounds has a blank, and answers "
        "without rounds are left out and counted.",
    ),
    (
        "Decode speedup",
        "Baseline seconds a token over the method's seconds a token, each summed over the same "
        "prompts. The clock runs from the first token to the last, the drafter's start and first "
        "draft included; the first token belongs to the prompt and is not counted.",
    ),
    (
        "Headline baseline",
        "The fastest of the named baselines that ran, by decoded tokens a second over the whole "
        "run. ar_loop is the measured loop with nothing proposed; hf_generate is the model "
        "library's own generate.",
    ),
    (
        "Predicted speedup",
        "τ · t(ar_loop) / (t(draft) + t(verify) + t(commit)): the medians of a round's parts, "
        "measured by watching the same loop on answers that count for nothing else. Overhead is "
        "what a round of the timed answers took beyond that sum.",
    ),
    (
        "End-to-end speedup",
        "Baseline seconds over the method's, reading the prompt included, on the same prompts. "
        "Where answers differ in length, that difference is part of it.",
    ),
    (
        "Overall",
        "For τ the mean of the task values, for speedups their geometric mean. Blank unless every "
        "task of the run has a value.",
    ),
    (
        "Tokens/s",
        "Tokens decoded after the first one over decoding seconds, summed over all answers.",
    ),
    (
        "95 % interval",
        "Percentile bootstrap with 2,000 draws of whole conversations within each task, paired "
        "with the baseline for speedups. It holds the spread over prompts, not over machines, "
        "training seeds or days. Blank below five conversations a task.",
    ),
    (
        "Tie",
        "Two neighbours share a rank, marked =, unless the paired 95 % interval of the ratio of "
        "their overall decode speeds, on the prompts both answered, excludes 1. Also where "
        "conversations are too few for an interval. First and last of a row of ties may differ.",
    ),
    (
        "Joint acceptance J(k)",
        "Among rounds that offered at least k draft tokens in a row, the share that accepted k or "
        "more. Where all rounds offer the same depth and nothing is cut, τ = 1 + J(1) + J(2) + …",
    ),
    (
        "Conditional acceptance C(k)",
        "Among rounds that accepted k − 1 tokens and offered a k-th, the share that accepted that "
        "one too.",
    ),
    (
        "τ macro",
        "The mean over answers of each answer's tokens a round: short answers weigh as much as "
        "long ones.",
    ),
    (
        "τ macro, uncut",
        "τ macro with the last round counted in full, as DFlash prints it. Compare numbers from "
        "DFlash-family papers with this column only.",
    ),
    (
        "Acceptance per node",
        "Draft tokens accepted over all draft tokens checked, every branch of a tree included.",
    ),
    (
        "Peak memory",
        "Most device memory in use during any answer; blank where the device does not tell.",
    ),
    (
        "Lossless",
        "At temperature 0 every answer is scored again by the target in one pass over its own "
        "tokens, in the run's dtype and one dtype wider. A token stands if it is the wider pass's "
        "best, or if its margin below the best is at most three times the noise at that position: "
        "the largest difference between the two passes among the 64 best tokens and the token "
        "itself, their mean difference taken off. exact: every token stands and the answer is "
        "ar_loop's, token for token. ties only: every token stands. MISMATCH: a token does not "
        "stand, or the answer ends where ar_loop's does not, or in exact mode is another at all. "
        "The column shows a method's worst "
        "verdict. It is blank where no answer was audited, and above temperature 0, where no "
        "single token is right.",
    ),
    (
        "Samples",
        "Prompts written for this project so that every task runs offline. They are not the "
        "benchmark, and their numbers must not be quoted under its name.",
    ),
)
