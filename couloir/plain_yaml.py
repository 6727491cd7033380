"""YAML of plain values: text, numbers, truth values, null, lists and mappings; nothing else.

Of YAML 1.1's guesses, dates, ``1:30`` as 90 and ``010`` as 8 are left out: these stay text. The text may come from
anyone, so aliases are counted as what they stand for.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from couloir.errors import UserError, must_be
from couloir.limits import MAX_YAML_CHARS, MAX_YAML_DEPTH, MAX_YAML_NODES

_TAG = "tag:yaml.org,2002:"
_PLAIN = {_TAG + kind for kind in ("str", "int", "float", "bool", "null", "seq", "map", "merge")}
_HALF = re.compile("[\ud800-\udfff]")
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+][0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


class _Loader(yaml.SafeLoader):
    """The safe loader with fewer guesses."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if tag[len(_TAG) :] in ("bool", "null", "merge")]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_TAG + "int", re.compile(f"(?:{_INT.pattern})$"), list("-+0123456789"))
_Loader.add_implicit_resolver(_TAG + "float", re.compile(f"(?:{_FLOAT.pattern})$"), list("-+0123456789."))


def parse_yaml(text: str, name: object) -> Any:
    """The value of one YAML document; None where it is empty.

    Args:
        name: of the file, for errors.

    Raises:
        UserError: in one line, where there is one with its number: it is no YAML, has other values than plain ones, a
            key that is no text or is there twice, or is larger or deeper than any configuration.
    """
    if len(text) > MAX_YAML_CHARS:
        raise must_be(str(name), f"a configuration of at most {MAX_YAML_CHARS} characters", len(text))
    loader = _Loader("")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, name, 0, {})
        return loader.construct_document(node)
    except RecursionError:
        raise _too_deep(name) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1} of {name}" if mark else f"configuration file {name}"
        reason = getattr(error, "problem", None) or str(error).split("\n")[0]
        raise UserError(f"{place} is not valid YAML: {reason}") from None
    except (ValueError, TypeError, LookupError, OverflowError, AttributeError) as error:
        raise UserError(f"configuration file {name} is not valid YAML: {error}") from None
    finally:
        loader.dispose()


def _too_deep(name: object) -> UserError:
    return must_be(str(name), f"a configuration with at most {MAX_YAML_DEPTH} values within each other", "deeper")


def _count(node: yaml.Node, name: object, depth: int, counted: dict[int, int]) -> int:
    """How many values a node stands for, all aliases followed; 0 marks those that are being counted."""
    if depth > MAX_YAML_DEPTH:
        raise _too_deep(name)
    if id(node) in counted:
        if not counted[id(node)]:
            raise must_be(f"line {node.start_mark.line + 1} of {name}", "a plain value", "one that holds itself")
        return counted[id(node)]
    counted[id(node)] = 0
    line = f"line {node.start_mark.line + 1} of {name}"
    if node.tag not in _PLAIN:
        raise must_be(line, "text, a number, True, False, null, a list or a mapping", f"of the kind `{node.tag}`")
    if isinstance(node, yaml.ScalarNode) and _HALF.search(node.value):
        raise must_be(line, "text", "half of a surrogate pair")
    children = list(node.value) if isinstance(node, yaml.SequenceNode) else []
    if isinstance(node, yaml.MappingNode):
        _check_keys(node, name)
        children = [part for pair in node.value for part in pair]
    total = 1 + sum(_count(child, name, depth + 1, counted) for child in children)
    if total > MAX_YAML_NODES:
        raise must_be(str(name), f"a configuration of at most {MAX_YAML_NODES} values, aliases counted", "larger")
    counted[id(node)] = total
    return total


def _check_keys(node: yaml.MappingNode, name: object) -> None:
    seen = set()
    for key, _ in node.value:
        line = f"line {key.start_mark.line + 1} of {name}"
        if key.tag not in (_TAG + "str", _TAG + "merge"):
            raise must_be(line, "a key that is text", f"`{key.value}`"[:80], "put it into quotes")
        if key.value in seen:
            raise must_be(line, "a new key", f"`{key.value[:80]}` again")
        seen.add(key.value)
