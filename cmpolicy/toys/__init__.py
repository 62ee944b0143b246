"""Toys of one and two dimensions: distributions, training, distances, figures."""
