"""One file a domain: what a run needs of data, learner, evaluation and pictures, put together."""
