"""What every number on the page means."""

from harness.load import DISTURBED_CORES, MIN_WALL_S

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
        "What speedups divide by, one for all runs of a table: the fastest of the named baselines "
        "by decoded tokens a second, summed over those runs. One that answered more of the tasks "
        "is taken before a faster one. ar_loop is the measured loop with nothing proposed; "
        "hf_generate is the model library's own generate.",
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
        "Tokens decoded after the first one over decoding seconds, summed over all answers; where "
        "several processes share a host, over those of one of them, as for speedups.",
    ),
    (
        "Quality",
        "Answers by verdict, after timing. GSM8K: the last number, as a decimal. Programs: "
        "passed if every test held; failed is a wrong result, error an answer that broke or held "
        "nothing to judge, timeout one that did not end in time; not run is no verdict. First "
        "repeat only. Lost and won are the prompts on which only ar_loop or only the method "
        "passed; p is McNemar's exact two-sided test of the two.",
    ),
    (
        "95 % interval",
        "Percentile bootstrap with 2,000 draws of whole conversations within each task, paired "
        "with the baseline for speedups. It holds the spread over prompts, not over machines, "
        "training seeds or days. Blank below five conversations a task.",
    ),
    (
        "Rank",
        "One more than the number of drafters shown to be faster; a range up to the place above "
        "those shown to be slower. Shown is what the paired 95 % interval of the ratio of two "
        "overall decode speeds, on the prompts both answered, says by excluding 1; among many "
        "pairs a few differ by chance. No rank has a drafter with too few prompts for an interval "
        "of its speedup, with a MISMATCH (its speeds are struck out), or whose losslessness is not "
        "judged; nor an oracle, which is told answers, or whose acceptance is chosen.",
    ),
    (
        "Joint acceptance J(k)",
        "The share of all rounds that accepted k draft tokens or more; a round that offered less "
        "counts as one that did not. Tasks pooled, τ uncut = 1 + J(1) + J(2) + …",
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
        "τ uncut",
        "τ, or τ macro, with what the last round accepted behind the answer's end counted, too. "
        "Where answers end at a stop token, pooled is what Spec-Bench prints and macro what papers "
        "of the DFlash family print. Where they end at the length limit it is not: those loops "
        "draft whole blocks there, this one no further than the limit, and they may run one round "
        "more. On equal tokens DFlash's own code printed 2.070 for 2.037 here at a limit of 32 "
        "tokens, and 1.902 for 1.891 at 128.",
    ),
    (
        "Speedup as DFlash takes it",
        "The baseline's mean over answers of decoding seconds a token, over the method's mean, on "
        "the same prompts; the first token counts as a token. DFlash starts its clock behind the "
        "first draft; here that draft is included.",
    ),
    (
        "Speedup as Spec-Bench takes it",
        "The method's mean over conversations of tokens a second, over the baseline's mean, on the "
        "same prompts; reading the prompt is included, the turns of a conversation are summed. "
        "Overall values stay geometric means of the tasks' here.",
    ),
    (
        "Waste",
        "A round has one slot for each draft token it offered in a row and one for the bonus, the "
        "token that the target adds. Accept is the share of slots whose token reached the answer. "
        "Correct is the share whose token is the one that the answer has at that place, whatever "
        "was drafted before it; at temperature 0 that is the target's own text, above it one "
        "drawing of it. Waste is the share of the correct slots that is not accepted: "
        "1 − accept / correct, as in Table 1 of arXiv 2606.11552; of drafts, the same without the "
        "bonus. Places that the answer never reached, behind its end, are neither right nor wrong: "
        "left out, and counted. Overall is the mean of the task values; trees have a blank.",
    ),
    (
        "Mean ± standard deviation",
        "Over repeats, or over drafters trained alike with other seeds, of the value that each of "
        "them has by itself; n of them, and n − 1 in the divisor. Shown from two on.",
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
        "Other load",
        "How many cores processes other than the measuring one kept busy while an answer was "
        "made: the system's busy time, stolen time included, less the process's own, over the "
        "time passed; read before and after the timed work, never within. Tables by task show "
        f"the mean over answers; ° marks a row whose median is above {DISTURBED_CORES}. Blank "
        f"for answers under {MIN_WALL_S} s, as the system counts in steps of 10 ms, and where it "
        "does not tell. Work of others on the GPU is not seen.",
    ),
    (
        "Lossless",
        "At temperature 0 every answer is scored again by the target in one pass over its own "
        "tokens, in the run's dtype and one dtype wider. A token stands if it is the wider pass's "
        "best, or if its margin below the best is at most three times the noise at that position: "
        "the largest difference between the two passes among the 64 best tokens and the token "
        "itself, their mean difference taken off. Where that is not enough, noise is measured a "
        "second time in passes of one token, whose kernels round differently. exact: every token "
        "stands and the answer is ar_loop's, token for token. ties only: every token stands. "
        "MISMATCH: a token does not stand, or the answer ends where no stop token, limit or "
        "context ends it, or goes on where one does, or is a beginning of ar_loop's or the other "
        "way round, or in exact mode is another at all. not judged: noise at a token is above what "
        "rounding makes in the run's dtype, so the two passes compute different things and explain "
        "nothing. "
        "The column shows a method's worst verdict. It is blank where no answer was audited.",
    ),
    (
        "Lossless above temperature 0",
        "No single token is right there, so each method's tokens are judged together. Were they "
        "drawn from the target's distribution at their own prefix, then the probability of all "
        "tokens before the drawn one, the most probable first, plus a uniform part of its own "
        "probability would be uniform on 0 to 1 and independent from token to token. A "
        "Kolmogorov-Smirnov test over all tokens says MISMATCH below p = 0.001, else consistent: "
        "no more than that a fault as large as the table states would have been noticed nine "
        "times in ten. The allowance is the share of tokens just outside of top-p or top-k in the "
        "audit's own pass, where rounding may have put them (at least 0.7 of the least kept "
        "probability); it is taken off the distance before p is computed.",
    ),
    (
        "Samples",
        "Prompts written for this project so that every task runs offline. They are not the "
        "benchmark, and their numbers must not be quoted under its name.",
    ),
)
