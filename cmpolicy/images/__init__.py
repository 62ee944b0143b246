"""Images: data, networks, training, metrics, sampling and editing."""
