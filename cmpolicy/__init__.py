"""cmpolicy: consistency policies for reinforcement learning."""
