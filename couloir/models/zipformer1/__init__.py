"""The first-generation streaming Zipformer, that of icefall's ``pruned_transducer_stateless7_streaming``.

It was published as a recipe and not as a paper; what it shares with its successor is described by Yao et al. 2024,
"Zipformer: A faster and better encoder for automatic speech recognition", arXiv:2310.11230 (stacks at several frame
rates, attention weights that two modules share, balancers, whitening, ScaledAdam). Constants, schedules, probabilities
and initial values are icefall's.
"""
