"""DiffuSpec: a diffusion LM whose drafts adapt their length and are searched for a causal path.

One name for ``dlm+adl+cps``; the parts that it consists of can be measured beside it.

Source: arXiv 2510.02358.
"""

from __future__ import annotations

from drafters import adl, cps
from drafters.diffusion_lm.drafter import build as build_dlm
from drafters.diffusion_lm.drafter import check

__all__ = ["build", "check"]
from drafters.options import DrafterOptions, PolicyOptions
from targets.base import Target


def build(target: Target, options: DrafterOptions) -> cps.PathSearch:
    """The diffusion LM of `drafters.diffusion_lm.drafter.build`, with both policies' defaults.

    Raises:
        MissingCheckpoint: no diffusion LM was trained for ``target``.
        UserError: its checkpoint cannot be used, or has no 3-gram model beside it.
    """
    adaptive = adl.build(build_dlm(target, options), target, options, PolicyOptions("adl"))
    return cps.build(adaptive, target, options, PolicyOptions("cps"))
