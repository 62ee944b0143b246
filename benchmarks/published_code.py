"""Published code, imported from clones, with the interface that a benchmark asks for.

    git clone https://github.com/quantumiracle/Consistency_Model_For_Reinforcement_Learning
    git clone https://github.com/Zhendong-Wang/Diffusion-Policies-for-Offline-RL

Nothing of it is changed. Both clones hold packages named `agents` and `utils`, so each is forgotten
after its import.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

DING_JIN_STEPS = 2  # T of their hyperparameters for hopper-medium-v2
DIFFUSION_QL_STEPS = 5  # the default of their --T


def import_from(clone: Path, name: str) -> Any:
    """A module of a clone.

    Raises:
        SystemExit: if it is not there, or needs a package that is not installed.
    """
    clone = clone.resolve()
    sys.path.insert(0, str(clone))
    try:
        return importlib.import_module(name)
    except ImportError as error:
        sys.exit(f"{clone} has no {name} that can be imported: {error}")
    finally:
        sys.path.remove(str(clone))
        for key, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None) or "").startswith(f"{clone}/"):
                del sys.modules[key]


def ding_jin_agent(clone: Path, obs_dim: int, action_dim: int, device: str = "cpu") -> Any:
    """Consistency-AC as its authors make it for hopper-medium, untrained."""
    module = import_from(clone, "agents.ql_consistency")
    return module.Consistency_QL(
        obs_dim, action_dim, 1.0, device, 0.99, 0.005, eta=0.1, n_timesteps=DING_JIN_STEPS
    )


def diffusion_ql_agent(clone: Path, obs_dim: int, action_dim: int, device: str = "cpu") -> Any:
    """Diffusion-QL with its five steps, untrained."""
    module = import_from(clone, "agents.ql_diffusion")
    return module.Diffusion_QL(
        obs_dim, action_dim, 1.0, device, 0.99, 0.005,
        beta_schedule="vp", n_timesteps=DIFFUSION_QL_STEPS,
    )  # fmt: skip
