"""Typed configuration: frozen dataclasses, YAML in, flags over it, the resolved result saved with a run.

A field is declared with `option`, which carries its help text and unit. A field named ``max_duration``
is the flag ``--max-duration`` (``--max_duration`` works too). This module imports nothing heavy, so
``--help`` is quick.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from couloir.errors import UserError, message_line, must_be, unknown_name
from couloir.texts import read_text

T = TypeVar("T")
MAX_WHOLE = 2**63 - 1
Ints = tuple[int, ...]
Floats = tuple[float, ...]


def option(
    default: Any = dataclasses.MISSING,
    help: str = "",
    *,
    unit: str = "",
    choices: Sequence[str] = (),
    hidden: bool = False,
    rare: bool = False,
) -> Any:
    """A configuration field.

    Args:
        default: its default value; without one the field is required.
        help: one sentence for ``--help``; unit: its unit ("s", "frames"); choices: the allowed strings.
        hidden: accepted for compatibility, left out of ``--help``.
        rare: wanted by few people, and shown by ``--help-all`` alone.
    """
    metadata = {
        "help": help,
        "unit": unit,
        "choices": tuple(choices),
        "hidden": hidden,
        "rare": rare,
    }
    return dataclasses.field(default=default, metadata=metadata)


def to_bool(text: str | bool | int) -> bool:
    """True/False from True/False/1/0/yes/no/t/f/y/n in any case. Raises ValueError."""
    word = str(text).strip().lower()
    if word in ("true", "1", "yes", "t", "y", "on"):
        return True
    if word in ("false", "0", "no", "f", "n", "off"):
        return False
    raise ValueError(f"must be True or False, but is {text!r}")


def _parse_tuple(value: Any, item: type) -> tuple:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (convert(item, value),)
    if isinstance(value, Mapping):
        raise TypeError
    parts = value.split(",") if isinstance(value, str) else value
    return tuple(convert(item, part) for part in parts if str(part).strip() != "")


def convert(kind: Any, value: Any) -> Any:
    """Convert a flag's text or a YAML value to a field's declared type. Raises ValueError or TypeError."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() in ("", "none")):
            return None
        return convert(next(a for a in args if a is not type(None)), value)
    if origin is tuple:
        return _parse_tuple(value, args[0])
    if origin is typing.Literal:
        return value
    if kind is bool:
        return to_bool(value)
    if kind in (int, float):
        return _number(kind, value)
    if isinstance(value, bool) or (kind is str and not isinstance(value, (str, int, float, Path))):
        raise TypeError
    return kind(value)


def _number(kind: type, value: Any) -> int | float:
    """A finite number from its text or from another number."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise TypeError
    if kind is float or isinstance(value, float):
        real = float(value)
        if not math.isfinite(real):
            raise ValueError
        if kind is float:
            return real
    whole = int(value)
    if whole != value and isinstance(value, float):
        raise ValueError(f"must be a whole number, but is {value}")
    if abs(whole) > MAX_WHOLE:
        raise ValueError
    return whole


def hints(cls: type) -> dict[str, Any]:
    """Field name -> resolved type of a configuration class."""
    resolved = typing.get_type_hints(cls)
    return {f.name: resolved[f.name] for f in dataclasses.fields(cls)}


def from_mapping(cls: type[T], values: Mapping[str, Any], base: T | None = None, origin: str = "configuration") -> T:
    """Build ``cls`` from a mapping of (possibly textual) values laid over ``base`` or the defaults.

    Raises `UserError` for an unknown key (naming the nearest), a value of the wrong type or a contradiction.
    """
    kinds = hints(cls)
    converted: dict[str, Any] = {}
    for raw_key, value in values.items():
        key = str(raw_key).replace("-", "_")
        if key not in kinds:
            raise unknown_name(f"key in {origin}:", str(raw_key), list(kinds))
        converted[key] = convert_named(key, kinds[key], value)
        _check_choice(cls, key, converted[key])
    return dataclasses.replace(base, **converted) if base is not None else cls(**converted)  # type: ignore[type-var]


def convert_named(name: str, kind: Any, value: Any) -> Any:
    """`convert` for the field ``name``. Raises `UserError` that names its flag."""
    try:
        return convert(kind, value)
    except (ValueError, TypeError, OverflowError) as error:
        text = str(error) if str(error).startswith("must") else f"must be {_type_name(kind)}, but is {value!r}"
        raise UserError(f"`{flag_name(name)}` {text}") from None


def _check_choice(cls: type, key: str, value: Any) -> None:
    choices = next(f for f in dataclasses.fields(cls) if f.name == key).metadata.get("choices", ())
    if choices and value not in choices:
        raise must_be(flag_name(key), "one of " + ", ".join(choices), value)


def _type_name(kind: Any) -> str:
    args = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        return f"a comma-separated list of {args[0].__name__}"
    names = {int: "a whole number", float: "a number", bool: "True or False", str: "text", Path: "a path"}
    return names.get(kind, " or ".join(a.__name__ for a in args) or str(kind))


def flag_name(field: str) -> str:
    """``max_duration`` -> ``--max-duration``."""
    return "--" + field.replace("_", "-")


class RareFlag(argparse._StoreAction):
    """A flag that ``--help-all`` shows and ``--help`` does not (see `TeachingParser`)."""


class _HelpAll(argparse._HelpAction):
    """``--help-all``."""

    def __call__(self, parser: Any, *_: Any) -> None:
        parser.print_help_all()
        parser.exit()


def add_flags(parser: argparse.ArgumentParser, *classes: type, hidden: bool = False, rare: bool = False) -> None:
    """Add one flag per field of each class. Flags that are not given stay out of the namespace.

    That is how `given_flags` can tell a flag that was typed from a default, and refuse contradictions.
    A field name that two classes share is one flag for both. ``hidden`` flags work and are left out of --help; so are
    ``rare`` ones, which --help-all shows.
    """
    seen = {action.dest for action in parser._actions}
    for cls in classes:
        title, _, text = (cls.__doc__ or cls.__name__).partition("\n")
        group = parser.add_argument_group(title.rstrip("."), text.split("\n\n")[0].strip() or None)
        kinds = hints(cls)
        for field in dataclasses.fields(cls):
            if field.name in seen:
                continue
            seen.add(field.name)
            shown = not (hidden or field.metadata.get("hidden", False))
            group.add_argument(
                flag_name(field.name),
                dest=field.name,
                default=argparse.SUPPRESS,
                action=RareFlag if rare or field.metadata.get("rare", False) else "store",
                metavar=_metavar(kinds[field.name]),
                help=_help(field, kinds[field.name]) if shown else argparse.SUPPRESS,
            )


def _metavar(kind: Any) -> str:
    names = {int: "N", float: "X", bool: "BOOL", Path: "PATH", Ints: "N,N,...", Floats: "X,X,..."}
    if type(None) in typing.get_args(kind):
        kind = next(part for part in typing.get_args(kind) if part is not type(None))
    return names.get(kind, "TEXT")


def _help(field: dataclasses.Field, kind: Any) -> str:
    meta = field.metadata
    text = meta.get("help", "")
    if meta.get("unit"):
        text += f" [{meta['unit']}]"
    if meta.get("choices"):
        text += " One of: " + ", ".join(meta["choices"]) + "."
    if field.default is not dataclasses.MISSING and field.default is not None:
        shown = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
        text += f" (default: {shown})"
    return text.replace("%", "%%")


def _dashed(word: str) -> str:
    """``--max_duration=2`` -> ``--max-duration=2``: some of the commands in use are written with underscores."""
    flag, equals, value = word.partition("=")
    return flag.replace("_", "-") + equals + value if flag.startswith("--") else word


class TeachingParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line: the nearest flag is named, exit code 2.

    Where some of its flags are rare, ``--help`` leaves them out and says that ``--help-all`` has them.
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(**kwargs)
        self.add_argument("--help-all", action=_HelpAll, help=argparse.SUPPRESS)

    def format_help(self) -> str:
        """The help without rare flags and without sections that have no others."""
        rare = [action for action in self._actions if isinstance(action, RareFlag) and _is_shown(action)]
        if not rare:
            return super().format_help()
        texts = {action: action.help for action in rare}
        groups, epilog = self._action_groups, self.epilog
        try:
            for action in rare:
                action.help = argparse.SUPPRESS
            self._action_groups = [group for group in groups if any(map(_is_shown, group._group_actions))]
            self.epilog = f"{len(rare)} more flags, which few people need: --help-all"
            return super().format_help()
        finally:
            self._action_groups, self.epilog = groups, epilog
            for action in rare:
                action.help = texts[action]

    def print_help_all(self) -> None:
        """Print the help with all flags."""
        sys.stdout.write(super().format_help())

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse's, but an unknown flag names the nearest known one."""
        words = [_dashed(word) for word in (sys.argv[1:] if args is None else args)]
        parsed, rest = self.parse_known_args(words, namespace)
        if rest:
            known = [o for action in self._actions for o in action.option_strings if o.startswith("--")]
            self.error(
                str(unknown_name("flag", rest[0].split("=")[0], known))
                if rest[0].startswith("-")
                else f"unexpected argument `{rest[0]}`"
            )
        return parsed

    def error(self, message: str) -> typing.NoReturn:
        """Print one line and exit with 2."""
        self.exit(2, f"error: {message_line(message)} (see --help)\n")


def _is_shown(action: argparse.Action) -> bool:
    return action.help != argparse.SUPPRESS


def given_flags(namespace: argparse.Namespace, cls: type) -> dict[str, Any]:
    """The flags of ``cls`` that were typed: field name -> text."""
    names = {field.name for field in dataclasses.fields(cls)}
    return {key: value for key, value in vars(namespace).items() if key in names}


def as_plain(config: Any) -> Any:
    """A configuration as plain YAML-able values (dict, list, str, int, float, bool, None)."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: as_plain(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(key): as_plain(value) for key, value in config.items()}
    if isinstance(config, (tuple, list)):
        return [as_plain(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping of plain values. Raises `UserError` when the file cannot be read or is not one (`parse_yaml`)."""
    from couloir.plain_yaml import parse_yaml

    try:
        values = parse_yaml(read_text(path), path)
    except FileNotFoundError:
        raise UserError(f"configuration file {path} does not exist") from None
    if not isinstance(values, dict):
        raise must_be(str(path), "a YAML mapping", "empty" if values is None else type(values).__name__)
    return values


def write_yaml(path: Path, config: Any) -> None:
    """Write a configuration beside its final name and move it into place."""
    import yaml

    from couloir.files import atomic_write

    with atomic_write(path, "w") as out:
        yaml.safe_dump(as_plain(config), out, sort_keys=False, allow_unicode=True)
