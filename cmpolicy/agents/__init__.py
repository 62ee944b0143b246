"""Agents by name. To add one: a file here, a line in AGENTS, a configuration in configs/agent/."""

from cmpolicy.agents.ac import ConsistencyAC
from cmpolicy.agents.agent import Agent, AgentConfig, Spaces
from cmpolicy.agents.bc import ConsistencyBC

AGENTS: dict[str, type[Agent]] = {"bc": ConsistencyBC, "ac": ConsistencyAC}

__all__ = ["AGENTS", "Agent", "AgentConfig", "ConsistencyAC", "ConsistencyBC", "Spaces"]
