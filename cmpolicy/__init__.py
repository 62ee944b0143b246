"""cmpolicy: consistency policies for reinforcement learning.

`ConsistencyPolicy` is the actor for an agent of one's own; `python -m cmpolicy.train` trains ours.
"""

from importlib.metadata import version

from cmpolicy.errors import InputError
from cmpolicy.policy.config import PolicyConfig
from cmpolicy.policy.consistency_policy import ConsistencyPolicy

__version__ = version("cmpolicy")
__all__ = ["ConsistencyPolicy", "InputError", "PolicyConfig", "__version__"]
