"""Generative models that toys and images share: teacher, student and the learner of both."""
