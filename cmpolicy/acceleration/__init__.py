"""Everything about speed: compilation, CUDA graphs, precision, seeds that train as one stack."""
