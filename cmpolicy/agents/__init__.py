"""Agents by name. To add one: a file here, a line in AGENTS, a configuration in configs/agent/."""

from cmpolicy.agents.ac import ConsistencyAC
from cmpolicy.agents.agent import Agent, AgentConfig, Spaces
from cmpolicy.agents.bc import ConsistencyBC
from cmpolicy.agents.diffusion_ql import DiffusionQL
from cmpolicy.agents.iql import ConsistencyIQL

AGENTS: dict[str, type[Agent]] = {
    "bc": ConsistencyBC,
    "ac": ConsistencyAC,
    "iql": ConsistencyIQL,
    "diffusion_ql": DiffusionQL,
}

__all__ = [
    "AGENTS",
    "Agent",
    "AgentConfig",
    "ConsistencyAC",
    "ConsistencyBC",
    "ConsistencyIQL",
    "DiffusionQL",
    "Spaces",
]
