"""Sentences in many languages, for synthetic speech: sampled from the templates of ``home-assistant-intents``.

A template has alternatives ``(a|b)``, options ``[a]``, permutations ``(a;b)``, rules ``<name>``, slots ``{list:name}``.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from couloir.errors import UserError, unknown_name

_GROUP = re.compile(r"\(([^()\[\]]*)\)|\[([^()\[\]]*)\]")  # innermost
_RULE = re.compile(r"<([^<>]*)>")
_SLOT = re.compile(r"\{([^{}:]*)[^{}]*\}")
_FEWEST_LETTERS = 6
_MOST_STEPS = 300
_MOST_FAILURES = 200


def _folder() -> Path:
    try:
        import home_assistant_intents
    except ImportError:
        raise UserError(
            "sentences for synthetic speech come from a package that is missing; pip install home-assistant-intents"
        ) from None
    return Path(home_assistant_intents.__file__).parent / "data"


def languages() -> list[str]:
    """Languages that have templates, sorted."""
    return sorted(path.stem for path in _folder().glob("*.json"))


def sentences(language: str, seed: int = 0) -> Iterator[str]:
    """Different sentences of a language in an order that the seed decides; ends when hardly any new one is found.

    Raises `UserError` when the language has no templates.
    """
    path = _folder() / f"{language}.json"
    if not path.is_file():
        raise unknown_name("language of synthetic sentences", language, languages())
    grammar = json.loads(path.read_text(encoding="utf-8"))
    intents = [templates for intent in grammar["intents"].values() if (templates := list(_templates(intent, grammar)))]
    chance = random.Random(f"{language} {seed}")
    seen: set[str] = set()
    failures = 0
    while failures < _MOST_FAILURES and intents:
        template, rules, lists = chance.choice(chance.choice(intents))
        sentence = _sample(template, rules, lists, chance)
        if sentence is None or sentence in seen or sum(map(str.isalpha, sentence)) < _FEWEST_LETTERS:
            failures += 1
            continue
        failures = 0
        seen.add(sentence)
        yield sentence


def _templates(intent: dict[str, Any], grammar: dict[str, Any]) -> Iterator[tuple[str, dict[str, str], dict[str, Any]]]:
    """Every template of an intent with the rules and lists that hold for it."""
    for data in intent["data"]:
        rules = {**grammar.get("expansion_rules", {}), **data.get("expansion_rules", {})}
        lists = {**grammar.get("lists", {}), **data.get("lists", {})}
        for template in data["sentences"]:
            yield template, rules, lists


def _sample(template: str, rules: dict[str, str], lists: dict[str, Any], chance: random.Random) -> str | None:
    """One sentence of a template, or None where it needs a value that only a home has (names, rooms, free text)."""
    text = f"({template})"
    new: str | None
    for _ in range(_MOST_STEPS):
        if found := _GROUP.search(text):
            new = _choose(found, chance)
        elif found := _RULE.search(text):
            new = f"({rules[found[1]]})" if found[1] in rules else None
        elif found := _SLOT.search(text):
            new = _value(lists.get(found[1], {}), chance)
        else:
            return None if "\\" in text or ":" in text else " ".join(text.split())
        if new is None:
            return None
        text = text[: found.start()] + new + text[found.end() :]
    return None


def _choose(group: re.Match[str], chance: random.Random) -> str:
    """One way to say an innermost group."""
    if group[1] is None and chance.random() < 0.5:
        return ""
    chosen = chance.choice((group[1] if group[1] is not None else group[2]).split("|"))
    parts = chosen.split(";")
    chance.shuffle(parts)
    return " ".join(parts)


def _value(values: dict[str, Any], chance: random.Random) -> str | None:
    """One value of a list; None for free text."""
    if "range" in values:
        bounds = values["range"]
        return str(chance.randrange(bounds["from"], bounds["to"] + 1, bounds.get("step", 1)))
    if not values.get("values"):
        return None
    value = chance.choice(values["values"])
    return f"({value['in'] if isinstance(value, dict) else value})"
