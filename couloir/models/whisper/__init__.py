"""Whisper: an encoder of log-mel features and a decoder of text, and its weights as three projects store them."""
