"""Tokens of speech as text and back."""

import pytest

from couloir.errors import UserError
from couloir.models.quantizer.texts import as_text, from_text


def test_there_and_back():
    text = "<|sound_start|><|sound_0001|><|sound_2560|><|sound_0000|><|sound_end|>"
    assert as_text([1, 2560, 0]) == text
    assert from_text(text, 2561) == from_text(f" {text}\n", 2561) == [1, 2560, 0]
    assert from_text("<|sound_0007|>", 8) == [7]
    assert as_text([]) == "<|sound_start|><|sound_end|>"
    assert from_text(as_text([]), 8) == []


@pytest.mark.parametrize(
    "text", ["<|sound_1|>", "<|sound_00001|>", "<|sound_0001|> x", "0001", "<|sound_end|><|sound_start|>"]
)
def test_something_else(text):
    with pytest.raises(UserError, match="made of `<|sound_NNNN|>`"):
        from_text(text, 2561)


def test_ids_that_are_none():
    with pytest.raises(UserError, match="from 0 to 2560, but is 2561"):
        from_text("<|sound_0001|><|sound_2561|>", 2561)
    with pytest.raises(UserError, match="from 0 to 9999, but is 10000"):
        as_text([1, 10000])
