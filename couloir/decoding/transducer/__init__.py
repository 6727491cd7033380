"""Searches with a transducer: greedy, beam, and over graphs."""
