"""Offline transitions from D4RL's HDF5 files, Minari, or arrays of one's own."""

from cmpolicy.datasets.transitions import Batch, DatasetInfo, TransitionDataset, check_fits

__all__ = ["Batch", "DatasetInfo", "TransitionDataset", "check_fits"]
