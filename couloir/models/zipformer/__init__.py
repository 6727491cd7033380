"""The second-generation Zipformer encoder.

Source: Yao et al. 2024, "Zipformer: A faster and better encoder for automatic speech recognition", ICLR,
arXiv:2310.11230. The modules name its parts by their headings. What a paper does not give (constants, schedules,
probabilities, initial values) is icefall's.
"""
