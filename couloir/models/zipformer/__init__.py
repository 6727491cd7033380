"""The second-generation Zipformer encoder (Yao et al. 2023, "Zipformer: A faster and better encoder for ASR")."""
