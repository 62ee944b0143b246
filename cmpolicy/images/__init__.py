"""Generative models of images: data, network, training, metrics, sampling and editing."""
