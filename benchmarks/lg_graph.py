"""A decoding graph of a large vocabulary: built, saved, read back and searched.

    python benchmarks/lg_graph.py --words /usr/share/dict/american-english-huge --text .venv/lib --write

Words: a list (Debian's package wamerican-huge has 348 k), those of the text first, up to --num-words; espeak-ng spells
them in phones. Text: the documentation strings of the Python files below --text. From it comes the 3-gram, in which
every word of the lexicon is at least a unigram. Decoded are sentences of the text as a recogniser might find them
them: log-probabilities over phones, at 25 frames a second, in which the right phone stands out by --snr of a standard
deviation of the noise. CTC and a transducer (of random weights: for the time only) search the whole graph.
"""

from __future__ import annotations

import argparse
import random
import re
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from decoding_search import peaky_model
from kaldialign import edit_distance
from result_file import write_result
from torch import Tensor

from couloir.decoding.fsa.ctc import ctc_graph_search
from couloir.decoding.fsa.graph import Graph
from couloir.decoding.graph import Lexicon, build_lg, make_lexicon
from couloir.decoding.ngram import estimate_arpa
from couloir.decoding.transducer.graph_search import fast_beam_search
from couloir.machine import usable_cores
from couloir.text.g2p import phonemize
from couloir.text.ipa import normalize, segment

FRAMES_PER_SECOND = 25
SHORTEST = 3
Timed = dict[str, float]


def sentences(root: Path, known: set[str], most: int) -> list[list[str]]:
    """Runs of known words in the documentation strings below ``root``, each once, in a fixed random order."""
    found: set[str] = set()
    for path in sorted(root.rglob("*.py")):
        for text in re.findall(r'"""(.*?)"""', path.read_text(encoding="utf-8", errors="ignore"), re.DOTALL):
            for part in re.split(r"[.:;,()\[\]`*=<>_/|\"]|\n\s*\n", text):
                found.update(" ".join(run) for run in _known_runs(part, known))
    ordered = sorted(found)
    random.Random(0).shuffle(ordered)
    return [line.split() for line in ordered[:most]]


def _known_runs(text: str, known: set[str]) -> Iterator[list[str]]:
    run: list[str] = []
    for word in [*re.findall(r"[A-Za-z']+|\S", text), ""]:
        if word.lower() in known:
            run.append(word.lower())
            continue
        if len(run) >= SHORTEST:
            yield run
        run = []


def spelt(words: list[str]) -> tuple[list[str], Lexicon]:
    """The phones that are needed, by token id, and how each word is spelt in them."""
    phones = {w: segment(normalize(ipa)) for w, ipa in zip(words, phonemize({"en": words}, usable_cores())["en"])}
    pieces = ["<blk>", "<sos/eos>", "<unk>", *sorted({phone for spelling in phones.values() for phone in spelling})]
    number = {piece: i for i, piece in enumerate(pieces)}
    return pieces, make_lexicon((w, [number[p] for p in spelling]) for w, spelling in phones.items() if spelling)


def heard(spelling: list[int], vocab_size: int, snr: float, generator: torch.Generator) -> Tensor:
    """Log-probabilities (S, V) of an utterance: a phone's frame is followed by a blank one, with noise over all."""
    path = [label for token in spelling for label in (token, 0)]
    logits = torch.randn(len(path), vocab_size, generator=generator)
    logits[torch.arange(len(path)), torch.tensor(path)] += snr
    return (2 * logits).log_softmax(-1)


def timed(seconds: Timed, name: str, call: Callable[[], Any]) -> Any:
    """The call's result; its wall time goes into ``seconds``, and this process's own share of it."""
    begin, own = time.perf_counter(), time.process_time()
    result = call()
    seconds[name] = round(time.perf_counter() - begin, 2)
    seconds[f"{name}, CPU"] = round(time.process_time() - own, 2)
    print(
        f"{name:28} {seconds[name]:8.2f} s, CPU {seconds[f'{name}, CPU']:8.2f} s   peak memory {peak_memory():.2f} GB",
        flush=True,
    )
    return result


def peak_memory() -> float:
    """Largest resident size of this process so far, in GB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def decode(graph: Graph, lexicon: Lexicon, pieces: list[str], lines: list[list[str]], snr: float) -> dict[str, Any]:
    """Word error rate, and seconds per second of speech, over sentences."""
    spelling = {lexicon.words[word]: tokens for word, tokens in lexicon.entries}
    generator = torch.Generator().manual_seed(0)
    parts = [heard([t for word in line for t in spelling[word]], len(pieces), snr, generator) for line in lines]
    lens = torch.tensor([len(part) for part in parts])
    log_probs = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
    model = peaky_model("tiny", len(pieces), 128)
    encoded = torch.randn(len(lens), int(lens.max()), model.joiner.encoder_proj.in_features, generator=generator)
    seconds: Timed = {}
    found = timed(seconds, "CTC", lambda: ctc_graph_search(log_probs, lens, graph))
    timed(seconds, "transducer", lambda: fast_beam_search(model, encoded, lens, graph.scaled(0.1)))
    pairs = zip(lines, ([lexicon.words[w] for w in hypothesis.words] for hypothesis in found))
    errors = sum(edit_distance(line, words)["total"] for line, words in pairs)
    greedy = [(part.argmax(1) != 0).sum().item() for part in parts]
    speech = float(lens.sum()) / FRAMES_PER_SECOND
    return {
        "sentences": len(lines),
        "words": sum(map(len, lines)),
        "speech_s": round(speech, 1),
        "word_error_percent": round(100 * errors / sum(map(len, lines)), 1),
        "phones_heard_per_phone": round(sum(greedy) / (float(lens.sum()) / 2), 2),
        "rtf": {name: round(value / speech, 4) for name, value in seconds.items()},
    }


def main() -> None:
    """Build and search; with --write keep the result as a dated file beside this program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--words", type=Path, default=Path("/usr/share/dict/american-english-huge"))
    parser.add_argument("--text", type=Path, required=True, help="folder with Python files")
    parser.add_argument("--num-words", type=int, default=200_000)
    parser.add_argument("--num-sentences", type=int, default=200_000)
    parser.add_argument("--num-decoded", type=int, default=32)
    parser.add_argument("--snr", type=float, default=4.0)
    parser.add_argument("--write", action="store_true", help="write results/lg_graph-DATE.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    seconds: Timed = {}
    listed = {word.lower() for word in args.words.read_text(encoding="utf-8").split() if word.isascii()}
    lines = timed(seconds, "reading the text", lambda: sentences(args.text, listed, args.num_sentences))
    in_text = {word for line in lines for word in line}
    others = sorted(listed - in_text)
    random.Random(0).shuffle(others)
    chosen = [*sorted(in_text), *others][: args.num_words]
    pieces, lexicon = timed(seconds, "phones by espeak-ng", lambda: spelt(chosen))
    covered = set(lexicon.words)
    training = [line for line in lines if covered.issuperset(line)]
    with tempfile.TemporaryDirectory() as folder:
        arpa, path = Path(folder) / "words.3gram.arpa", Path(folder) / "LG.npz"
        everything = [*training, *([word] for word in lexicon.words[1:])]
        timed(seconds, "3-gram", lambda: estimate_arpa(everything, 3, arpa))
        graph = timed(seconds, "LG", lambda: build_lg(lexicon, arpa, len(pieces)))
        timed(seconds, "saving", lambda: graph.save(path))
        size, ngrams = path.stat().st_size, sum("\t" in line for line in arpa.read_text(encoding="utf-8").splitlines())
        graph = timed(seconds, "reading back", lambda: Graph.load(path))
    result = {
        "what": "LG of a lexicon from a word list, spelt by espeak-ng, and a 3-gram of documentation strings",
        "lexicon": {"words": len(lexicon.words) - 1, "spellings": len(lexicon.entries), "phones": len(pieces) - 3},
        "text": {"sentences": len(training), "words": sum(map(len, training)), "ngrams": ngrams},
        "graph": {
            "arcs": graph.num_arcs, "states": graph.num_states,
            "epsilon_moves": len(graph.move_next) if graph.move_next is not None else 0, "mb": round(size / 1e6, 1),
        },
        "seconds": seconds,
        "decoding": decode(graph, lexicon, pieces, training[: args.num_decoded], args.snr),
        "peak_memory_gb": peak_memory(),
    }  # fmt: skip
    print(result["lexicon"], result["text"], result["graph"], result["decoding"], sep="\n")
    if args.write:
        write_result("lg_graph", result)


if __name__ == "__main__":
    main()
