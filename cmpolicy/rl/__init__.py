"""Offline and online reinforcement learning: tasks, environments, rollouts, scores."""
