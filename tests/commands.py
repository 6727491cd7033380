"""The commands that the pages show, and whether their programs take them: flags go through the program's parser."""

import argparse
import ast
import importlib
import re
import shlex
import subprocess
import sys
from unittest import mock

from programs import ROOT, restored, run_program

from couloir.config import TeachingParser

INTERPRETERS = ("python", "python3", "$PYTHON")
SHELL_PROGRAMS = ("./prepare.sh", "./demo.sh", "./test.sh", "./setup.sh")


class Parsed(BaseException):
    """Raised in place of what a program does after its flags are parsed."""

    def __init__(self, namespace):
        self.namespace = namespace


def page_commands(path):
    """The commands of a Markdown page: of its bash blocks, after a ``$``, and in indented blocks."""
    text = path.read_text(encoding="utf-8")
    found = []
    for kind, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.S | re.M):
        if kind == "bash":
            found += _lines(block)
        elif not kind:
            found += [line[2:] for line in _lines(block) if line.startswith("$ ")]
    rest = re.sub(r"^```.*?^```\n", "", text, flags=re.S | re.M)
    return found + _indented(rest, "    ")


def comment_commands(path):
    """The commands in the comments of a YAML file, or in a program's docstring."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return _indented(ast.get_docstring(ast.parse(text)) or "", "    ")
    return _indented("\n".join(line[1:] for line in text.splitlines() if line.startswith("# ")), "  +")


def _lines(text):
    return [line.split("   #")[0].strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def _indented(text, indent):
    lines = re.findall(rf"^{indent}(\S.*)$", re.sub(r"\\\n\s*", " ", text), re.M)
    start = re.compile(
        r"(\w+=\S+ )*(\w+=\$\(|python3? |\$PYTHON |couloir |torchrun |sbatch |apptainer |\./\w+\.sh( |$))"
    )
    return [line for line in _lines("\n".join(lines)) if start.match(line)]


def check(command):
    """Fail where a part of a command names a program or a flag that is not there."""
    inner = re.findall(r"\$\((.*?)\)", command)
    for part in [*inner, re.sub(r"\$\(.*?\)", "X", command)]:
        for simple in re.split(r" \| | && ", part):
            words = shlex.split(re.sub(r"[\[\]]", "", simple), comments=True)  # [--flag]: it may be left out
            words = [word for word in words if word not in ("...", "&")]
            while words and re.match(r"\w+=", words[0]):
                words.pop(0)
            if words:
                _check_words(words)


def _check_words(words):
    first, *rest = words
    if first in INTERPRETERS:
        module = rest[0] == "-m"
        program = rest[1].replace(".", "/") + ".py" if module else rest[0]
        parse(program, rest[2:] if module else rest[1:])
    elif first == "couloir" and rest[:1] == ["prepare"]:
        _check_prepare(rest[1:])
    elif first == "couloir":
        parse("couloir/cli.py", rest)
    elif first == "torchrun":
        _check_torchrun(rest)
    elif first == "sbatch":
        script = next(i for i, word in enumerate(rest) if word.endswith(".sbatch"))
        assert (ROOT / rest[script]).is_file(), rest[script]
        if rest[script].endswith("train.sbatch"):
            parse("zipformer_crctc/train.py", rest[script + 1 :])
        else:
            _check_prepare(rest[script + 1 :])
    elif first == "apptainer":
        assert rest[0] != "build" or (ROOT / rest[2]).is_file()
        if rest[0] == "exec":
            _check_words(rest[next(i for i, word in enumerate(rest) if word in INTERPRETERS) :])
    elif first == "./prepare.sh" or first.endswith("/prepare.sh"):
        _check_prepare(rest)
    elif first in SHELL_PROGRAMS or first == ".":
        program = ROOT / (rest[0] if first == "." else first)
        assert program.is_file()
        assert first == "." or all(flag in program.read_text() for flag in rest if flag.startswith("--"))
    else:
        assert first in ("head", "tail"), f"what is `{first}`?"


def _check_torchrun(words):
    from torch.distributed.run import get_args_parser

    options = get_args_parser().parse_args([*words, "END"])  # which is the program where there is none
    if options.training_script != "END":
        parse(options.training_script, options.training_script_args[:-1])


def _check_prepare(words):
    """prepare.sh hands flags on to the programs of its stages, which take them in turn."""
    command = ["bash", str(ROOT / "prepare.sh"), "--python", "echo", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        program, *flags = line.removeprefix(f"{ROOT}/").split()
        if program.startswith("local/"):
            parse(program, flags)


def parse(program, words):
    """What a program's parser makes of the words; None for --help. Fails where it refuses them."""
    assert (ROOT / program).is_file(), f"{program} is not there"
    plain, teaching = argparse.ArgumentParser.parse_args, TeachingParser.parse_args

    def stop(original):
        def parse_args(self, *args, **kwargs):
            raise Parsed(original(self, *args, **kwargs))

        return parse_args

    with (
        restored(),
        mock.patch.object(argparse.ArgumentParser, "parse_args", stop(plain)),
        mock.patch.object(TeachingParser, "parse_args", stop(teaching)),
    ):
        sys.path.insert(0, str((ROOT / program).parent))  # as Python does
        try:
            done = run_program(ROOT, program, words, check=False)
        except Parsed as parsed:
            _build(program, parsed.namespace)
            return parsed.namespace
    assert done.returncode == 0, f"{program} {' '.join(words)}\n{done.stderr[-500:]}"
    return None


def _build(program, namespace):
    """Of a training program, the configuration too: values are of the right type and contradict nothing."""
    if not program.endswith("/train.py"):
        return
    from couloir.recipes.run_config import build_config

    module = importlib.import_module(program.removesuffix(".py").replace("/", "."))
    given = vars(namespace)
    if given.get("config") is not None and not given["config"].is_file():
        del given["config"]  # of the reader's own
    build_config(namespace, module.RECIPE, module.DEFAULTS)
