"""Programs of the transducer recipe that run before its training or decoding."""
