"""cmpolicy: consistency policies for reinforcement learning.

`ConsistencyPolicy` is an actor for your own agent; `python -m cmpolicy.train` trains the agents of
this library. Names are imported when they are first used, so that `import cmpolicy` takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cmpolicy.errors import InputError
    from cmpolicy.policy.config import PolicyConfig
    from cmpolicy.policy.consistency_policy import ConsistencyPolicy
    from cmpolicy.policy.diffusion_policy import DiffusionPolicy, DiffusionPolicyConfig

    __version__: str

__all__ = [
    "ConsistencyPolicy",
    "DiffusionPolicy",
    "DiffusionPolicyConfig",
    "InputError",
    "PolicyConfig",
    "__version__",
]

_MODULES = {
    "ConsistencyPolicy": "cmpolicy.policy.consistency_policy",
    "DiffusionPolicy": "cmpolicy.policy.diffusion_policy",
    "DiffusionPolicyConfig": "cmpolicy.policy.diffusion_policy",
    "InputError": "cmpolicy.errors",
    "PolicyConfig": "cmpolicy.policy.config",
}


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
