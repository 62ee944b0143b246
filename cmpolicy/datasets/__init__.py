"""Offline transitions from D4RL's HDF5 files, Minari, or arrays of one's own."""

from cmpolicy.datasets.d4rl_hdf5 import load_hdf5
from cmpolicy.datasets.minari_source import load_minari
from cmpolicy.datasets.n_step_returns import n_step
from cmpolicy.datasets.reference_scores import normalized_score, reference_scores
from cmpolicy.datasets.resolve import SOURCES, load_path, resolve_dataset
from cmpolicy.datasets.rewards import REWARDS, transform_rewards
from cmpolicy.datasets.transitions import (
    DatasetInfo,
    TransitionBatch,
    TransitionDataset,
)
from cmpolicy.datasets.writing import About, write_dataset

__all__ = [
    "REWARDS",
    "SOURCES",
    "About",
    "DatasetInfo",
    "TransitionBatch",
    "TransitionDataset",
    "load_hdf5",
    "load_minari",
    "load_path",
    "n_step",
    "normalized_score",
    "reference_scores",
    "resolve_dataset",
    "transform_rewards",
    "write_dataset",
]
