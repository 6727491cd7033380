"""Output heads on any encoder, and their sizes read off weights."""
