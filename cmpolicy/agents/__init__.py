"""Agents by name. To add one of your own: `register_agent`, see docs/own-agent.md."""

from cmpolicy.agents.ac import ConsistencyAC
from cmpolicy.agents.agent import Agent, AgentConfig, Spaces
from cmpolicy.agents.bc import ConsistencyBC
from cmpolicy.agents.diffusion_ql import DiffusionQL
from cmpolicy.agents.ding_jin import DingJinAC
from cmpolicy.agents.iql import ConsistencyIQL
from cmpolicy.agents.weighted_bc import WeightedBC
from cmpolicy.plugins import registering

AGENTS: dict[str, type[Agent]] = {
    "ac": ConsistencyAC,
    "bc": ConsistencyBC,
    "weighted_bc": WeightedBC,
    "iql": ConsistencyIQL,
    "diffusion_ql": DiffusionQL,
    "ac_ding_jin": DingJinAC,
}
register_agent = registering("agent", AGENTS)

__all__ = [
    "AGENTS",
    "Agent",
    "AgentConfig",
    "ConsistencyAC",
    "ConsistencyBC",
    "ConsistencyIQL",
    "DiffusionQL",
    "DingJinAC",
    "Spaces",
    "WeightedBC",
    "register_agent",
]
