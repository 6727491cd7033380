"""couloir: trains, evaluates and ships Zipformer-family speech models, with pip alone."""

__version__ = "0.1.0"
