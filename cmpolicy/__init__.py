"""cmpolicy: consistency policies for reinforcement learning.

`ConsistencyPolicy` is the actor for an agent of one's own; `python -m cmpolicy.train` trains ours.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cmpolicy.errors import InputError
    from cmpolicy.policy.config import PolicyConfig
    from cmpolicy.policy.consistency_policy import ConsistencyPolicy

__version__ = version("cmpolicy")
__all__ = ["ConsistencyPolicy", "InputError", "PolicyConfig", "__version__"]

_MODULES = {
    "ConsistencyPolicy": "cmpolicy.policy.consistency_policy",
    "InputError": "cmpolicy.errors",
    "PolicyConfig": "cmpolicy.policy.config",
}


def __getattr__(name: str) -> Any:
    """Import on first use: a command is ready for Ctrl-C before torch, which takes seconds."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
