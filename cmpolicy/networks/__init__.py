"""Networks: embeddings of noise levels, multilayer perceptrons, critics."""
