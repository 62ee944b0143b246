"""Rollouts, scores and pictures of agents."""
