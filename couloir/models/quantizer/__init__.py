"""Speech tokens: a vector quantizer between the encoder and the decoder of a frozen Whisper."""
