"""A consistency loss: that of iCT with the same number of noise levels all the time."""

from dataclasses import dataclass

from cmpolicy.consistency.discrete import ImprovedConsistencyTraining, neighbours
from cmpolicy.consistency.schedules import lognormal_index


@dataclass(frozen=True)
class SteadyConsistency(ImprovedConsistencyTraining):
    """iCT without its curriculum; the fields are its hyperparameters, `loss_options`."""

    num_levels: int = 10

    def levels(self, uniform, p, progress):
        """The two levels of each sample, (B,) each, from one uniform number each."""
        count = progress.new_full((), self.num_levels)
        ends = p.sigma_min, p.sigma_max
        index = lognormal_index(uniform, count, *ends, self.p_mean, self.p_std)
        return neighbours(index, count, p)
