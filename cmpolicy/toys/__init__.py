"""Toys in one and two dimensions: distributions, training, distances and figures."""
