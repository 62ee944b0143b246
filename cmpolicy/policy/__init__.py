"""Policies as modules: the consistency policy, a diffusion policy to compare with, their export."""
