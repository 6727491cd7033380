"""Recognition for the people who use a model: recordings in, symbols with times and confidences out."""
