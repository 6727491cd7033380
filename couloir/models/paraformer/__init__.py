"""Paraformer (Gao et al. 2022, arXiv:2206.08317): one decoder pass over vectors that a CIF predictor fires."""
