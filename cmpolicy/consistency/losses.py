"""The losses by name. To add one: write the class, name it here."""

from __future__ import annotations

from collections.abc import Callable

from cmpolicy.consistency.continuous import ContinuousConsistency, SimplifiedConsistency
from cmpolicy.consistency.diffusion import DenoisingScoreMatching
from cmpolicy.consistency.discrete import (
    ConsistencyDistillation,
    ConsistencyTraining,
    EasyConsistencyTuning,
    ImprovedConsistencyTraining,
)
from cmpolicy.consistency.distribution_matching import DistributionMatching
from cmpolicy.consistency.loss import Loss

__all__ = ["DIFFUSIONS", "DISTILLATIONS", "LOSSES", "Loss"]

# Losses that train on data alone, which a policy can use.
LOSSES: dict[str, Callable[..., Loss]] = {
    "ct": ConsistencyTraining,
    "ict": ImprovedConsistencyTraining,
    "ect": EasyConsistencyTuning,
    "ct_continuous": ContinuousConsistency,
    "sct": SimplifiedConsistency,
}

# Losses that distil a teacher.
DISTILLATIONS: dict[str, Callable[..., Loss]] = {
    "cd": ConsistencyDistillation,
    "cd_continuous": ContinuousConsistency,
    "scd": SimplifiedConsistency,
    "dmd2": DistributionMatching,
}

# What trains the teacher itself.
DIFFUSIONS: dict[str, Callable[..., Loss]] = {"edm": DenoisingScoreMatching}
