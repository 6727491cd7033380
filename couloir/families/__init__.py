"""The families of models that there are: one description each, and the code that joins its parts to the programs."""
