"""cmpolicy: consistency policies for reinforcement learning.

`fit` trains an agent on data, `load_run` opens what it trained; `ConsistencyPolicy` is an actor for
your own agent. Names are imported when they are first used, so that `import cmpolicy` takes no
time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cmpolicy.agents import Agent, AgentConfig, Spaces, register_agent
    from cmpolicy.datasets import TransitionDataset
    from cmpolicy.errors import InputError
    from cmpolicy.fitting import fit
    from cmpolicy.policy.architecture import register_encoder, register_network
    from cmpolicy.policy.config import PolicyConfig, register_loss
    from cmpolicy.policy.consistency_policy import ConsistencyPolicy
    from cmpolicy.policy.diffusion_policy import DiffusionPolicy, DiffusionPolicyConfig
    from cmpolicy.rl.tasks import EnvConfig, register_task
    from cmpolicy.run import Run, load_run
    from cmpolicy.training.loop import Schedule, TrainingLoop
    from cmpolicy.training.run_directory import RunDirectory

    __version__: str

_MODULES = {
    "Agent": "cmpolicy.agents",
    "AgentConfig": "cmpolicy.agents",
    "ConsistencyPolicy": "cmpolicy.policy.consistency_policy",
    "DiffusionPolicy": "cmpolicy.policy.diffusion_policy",
    "DiffusionPolicyConfig": "cmpolicy.policy.diffusion_policy",
    "EnvConfig": "cmpolicy.rl.tasks",
    "InputError": "cmpolicy.errors",
    "PolicyConfig": "cmpolicy.policy.config",
    "Run": "cmpolicy.run",
    "RunDirectory": "cmpolicy.training.run_directory",
    "Schedule": "cmpolicy.training.loop",
    "Spaces": "cmpolicy.agents",
    "TrainingLoop": "cmpolicy.training.loop",
    "TransitionDataset": "cmpolicy.datasets",
    "fit": "cmpolicy.fitting",
    "load_run": "cmpolicy.run",
    "register_agent": "cmpolicy.agents",
    "register_encoder": "cmpolicy.policy.architecture",
    "register_loss": "cmpolicy.policy.config",
    "register_network": "cmpolicy.policy.architecture",
    "register_task": "cmpolicy.rl.tasks",
}
__all__ = [
    "Agent",
    "AgentConfig",
    "ConsistencyPolicy",
    "DiffusionPolicy",
    "DiffusionPolicyConfig",
    "EnvConfig",
    "InputError",
    "PolicyConfig",
    "Run",
    "RunDirectory",
    "Schedule",
    "Spaces",
    "TrainingLoop",
    "TransitionDataset",
    "__version__",
    "fit",
    "load_run",
    "register_agent",
    "register_encoder",
    "register_loss",
    "register_network",
    "register_task",
]


def __getattr__(name: str) -> Any:
    """A public name on its first use (PEP 562)."""
    if name == "__version__":
        value: Any = import_module("importlib.metadata").version("cmpolicy")
    elif name in _MODULES:
        value = getattr(import_module(_MODULES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
