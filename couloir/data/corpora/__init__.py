"""Speech corpora: one small builder each, and the stages of ``prepare.sh`` that turn them into Shar folders.

`couloir.data.corpora.registry` knows the builders by name, `couloir.data.corpora.base` says what a builder is.
"""
