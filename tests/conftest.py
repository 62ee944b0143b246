"""One thread: the networks of the tests are small, and workers share the cores."""

from __future__ import annotations

import os

import torch

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the commands that tests start
torch.set_num_threads(1)
