"""Texts to token ids and back: sentencepiece models, ``tokens.txt`` tables, and how either is made.

All share icefall's layout: ``<blk>`` is 0, ``<sos/eos>`` 1, ``<unk>`` 2. A vocabulary of IPA symbols that has no
word-boundary piece ``▁``, as `train_tokenizer` makes it, is one of phones: its texts are brought to IPA normal form and
their spaces dropped, unless ``unit.txt`` beside it says that they are words or characters (`couloir.text.units`). Any
other (ZIPA's, an icefall BPE, characters) gets its texts as they are, but for Unicode's
normal forms: letters are composed or decomposed as the vocabulary has them, and a variant that it lacks (``ﬁ``, ``Ａ``,
Thai ``ำ``) is what it stands for. A table of names of several letters (ARPABET, pinyin, words) has a space between any
two tokens of a text.
"""

from __future__ import annotations

import io
import json
import re
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from couloir.errors import UserError, must_be
from couloir.files import atomic_write
from couloir.text.byte_pieces import byte_of, with_bytes_joined
from couloir.text.ipa import TIE, are_phones, normalize, segment
from couloir.text.units import unit_beside
from couloir.texts import read_lines, read_text

BLANK, SOS_EOS, UNK = "<blk>", "<sos/eos>", "<unk>"
BLANKS = (BLANK, "<eps>", "<blank>")
"""What programs call the blank of a token table, or a graph's silent label."""
BOUNDARY = "▁"
UNK_SURFACE = "⁇"
CONTINUED = "@@"
SENTENCE_MARKS = (SOS_EOS, "<sos>", "<eos>", "<s>", "</s>")
KINDS = ("phones", "unigram", "bpe", "chars")
MODEL_NAME, TABLE_NAME = "bpe.model", "tokens.txt"


SPACE = "<space>"
"""What some tables of characters call the space."""
_PIECE_ID = re.compile(r"[ \t]*(?:(?P<piece>.*?)[ \t]+)?(?P<id>[0-9]{1,9})[ \t]*")
_ID_PIECE = re.compile(r"[ \t]*(?P<id>[0-9]{1,9})(?:[ \t]+(?P<piece>.*?))?[ \t]*")


class Tokenizer(ABC):
    """What every tokenizer has. Plain picklable values, so a loader's workers can carry it.

    Args:
        pieces: by id. origin: what to call it in an error. is_ipa: its texts are phones; None: as the pieces say.
    """

    def __init__(self, pieces: list[str], origin: str, is_ipa: bool | None = None) -> None:
        self.pieces = pieces
        self.blank_id = 0
        self.unk_id = pieces.index(UNK) if UNK in pieces else -1
        self.has_boundary = any(BOUNDARY in piece for piece in pieces)
        self._special = {i for i, piece in enumerate(pieces) if piece in (*BLANKS, *SENTENCE_MARKS)}
        self._written = _written(pieces)
        if is_ipa is None:
            is_ipa = not self.has_boundary and SPACE not in pieces and are_phones(self._written)
        self.is_ipa = is_ipa and not self.has_boundary
        self._has_tie = any(TIE in (normalize(piece) if self.is_ipa else piece) for piece in self._written)
        self._characters = set("".join(self._written))
        self._separator = " " if " " in self._characters or SPACE in pieces else ""
        if not pieces or pieces[0] not in BLANKS:
            found = next((f"at {i}" for i, piece in enumerate(pieces) if piece in BLANKS), "missing")
            raise must_be(
                f"piece 0 of {origin}",
                f"the blank, {BLANK}",
                f"{pieces[0]!r} (the blank is {found})" if pieces else found,
            )

    @property
    def vocab_size(self) -> int:
        """Number of pieces, blank included."""
        return len(self.pieces)

    def prepare(self, text: str) -> str:
        """The text that is really encoded, in the vocabulary's own spelling: composed letters or decomposed ones.

        For phones that is the IPA normal form without spaces. Of other vocabularies without a word boundary, those
        that have no space get none. A tie that the vocabulary never has is dropped, so that ``t͡s`` becomes ``ts`` as
        in ZIPA's texts.
        """
        if self.is_ipa:
            text = normalize(text).replace(" ", "")
        elif not self.has_boundary:
            text = self._separator.join(text.split())
        return self._respelt(text if self._has_tie else text.replace(TIE, ""))

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; what the vocabulary lacks becomes ``<unk>`` if it has that (see `unknown_symbols`)."""
        return [token for part in self._parts(text) for token, _ in self._tokens(part) if token >= 0]

    def unknown_symbols(self, text: str) -> set[str]:
        """The parts of a text that the vocabulary lacks."""
        tokens = (pair for part in self._parts(text) for pair in self._tokens(part))
        return {surface for token, surface in tokens if token == self.unk_id}

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids; ``<blk>`` and ``<sos/eos>`` are left out, ``<unk>`` is shown as ``⁇``."""
        return self._join([i for i in ids if i not in self._special])

    def spelling(self) -> list[str]:
        """The pieces that texts are written with, without special ones; the space is one."""
        written = {*self._written, SPACE}
        return [piece for piece in self.pieces if piece in written and byte_of(piece) is None]

    def save_tokens(self, path: str | Path) -> None:
        """Write ``tokens.txt``: a line ``piece id`` for each piece."""
        with atomic_write(path, "w") as out:
            out.writelines(f"{piece} {i}\n" for i, piece in enumerate(self.pieces))

    def _parts(self, text: str) -> list[str]:
        """What a text is encoded by, prepared: no token reaches from one part into the next."""
        return [self.prepare(text)]

    def _respelt(self, text: str) -> str:
        """The text with letters and syllables composed or decomposed where only that form is in the vocabulary."""
        known = self._characters
        if known.issuperset(text):
            return text
        parts: list[str] = []
        for character in text:
            if parts and (unicodedata.category(character)[0] == "M" or _is_hangul_end(character)):
                parts[-1] += character
            else:
                parts.append(character)
        return "".join(next(filter(known.issuperset, _forms(part)), part) for part in parts)

    @abstractmethod
    def _tokens(self, text: str) -> list[tuple[int, str]]:
        """(id, surface) pairs of a prepared text; what the vocabulary lacks has ``unk_id``."""

    @abstractmethod
    def _join(self, ids: list[int]) -> str:
        """Text of ids that are no special symbols."""


class SentencePieceTokenizer(Tokenizer):
    """A sentencepiece model, read as it is: icefall's ``bpe.model``, ZIPA's ``unigram_127.model``, or one made here."""

    def __init__(self, model: bytes, origin: str = "the sentencepiece model", is_ipa: bool | None = None) -> None:
        """Take a serialized model. Raises `UserError` when it is not one or has no ``<blk>`` at 0."""
        import sentencepiece  # a tokens.txt is read without it

        try:
            self.processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except (RuntimeError, OSError):
            raise UserError(f"{origin} is not a sentencepiece model; give a bpe.model or a tokens.txt") from None
        self.model = model
        super().__init__([self.processor.id_to_piece(i) for i in range(len(self.processor))], origin)
        # Without a boundary it was made by `train_tokenizer` for phones, whatever its letters, unless it is said.
        without = not self.has_boundary and all(normalize(piece) == piece for piece in self._written)
        self.is_ipa = without if is_ipa is None else is_ipa and not self.has_boundary
        self.unk_id = self.processor.unk_id()

    def save_model(self, path: str | Path) -> None:
        """Write the sentencepiece model as it was read."""
        with atomic_write(path) as out:
            out.write(self.model)

    def _tokens(self, text: str) -> list[tuple[int, str]]:
        return list(zip(self.processor.encode(text), self.processor.encode(text, out_type=str)))

    def encode(self, text: str) -> list[int]:
        """As `Tokenizer.encode`."""
        return self.processor.encode(self.prepare(text))

    def _join(self, ids: list[int]) -> str:
        return "".join(self.processor.decode(ids).split(" ")) if not self.has_boundary else self.processor.decode(ids)


class TokenTable(Tokenizer):
    """A ``tokens.txt`` without its model: the longest piece that fits is taken, from left to right.

    For phones and single letters that is what sentencepiece does; for a BPE of words it may cut differently, so a
    ``bpe.model`` is to be preferred where there is one. Pieces and texts are compared in one normal form.
    """

    def __init__(self, pieces: list[str], origin: str = "the token table", is_ipa: bool | None = None) -> None:
        super().__init__(pieces, origin, is_ipa)
        values = [byte_of(piece) for piece in pieces]
        self._values = {i: value for i, value in enumerate(values) if value is not None}
        self._byte_ids = {value: i for i, value in self._values.items()}
        self._letters: set[str] = set()
        plain = [i for i in range(len(pieces)) if i not in (*self._special, *self._values, self.unk_id)]
        self._ids = {self._form(" " if pieces[i] == SPACE else pieces[i]): i for i in reversed(plain)}
        self._longest = max(map(len, self._ids), default=1)
        self._letters = set("".join(self._ids))
        self._same_form = self.is_ipa and self._ids.keys() == {pieces[i] for i in plain}
        self._has_spaces = self.has_boundary or self._separator == " "
        self._has_names = not self.is_ipa and has_names(pieces)
        self._separator = " " if self._has_names else self._separator
        self._joined = _run_together if self.is_ipa else joining(pieces)

    def _form(self, text: str) -> str:
        """What pieces and texts are compared in."""
        if self.is_ipa:
            return normalize(text).replace(" ", "")
        if text.isascii():
            return text
        text = unicodedata.normalize("NFD", text)
        return text if self._letters.issuperset(text) else "".join(map(self._letter, text))

    def _letter(self, character: str) -> str:
        """A character, or what it is a variant of where the vocabulary has only that."""
        return next(filter(self._letters.issuperset, _forms(character)), character)

    def _parts(self, text: str) -> list[str]:
        if self.is_ipa or self._has_spaces:
            return super()._parts(text)
        return [self.prepare(word) for word in text.split()]

    def _respelt(self, text: str) -> str:
        if text.isascii() or self._same_form:
            return text
        known = (
            surface if i in (-1, self.unk_id) or i in self._values else self.pieces[i]
            for i, surface in self._tokens(text)
        )
        return "".join(known).replace(SPACE, " ").replace(BOUNDARY, " ").strip()

    def _tokens(self, text: str) -> list[tuple[int, str]]:
        text = text if self._same_form else self._form(text)
        if self.has_boundary:
            text = "".join(BOUNDARY + word for word in text.split())
        found: list[tuple[int, str]] = []
        at = 0
        while at < len(text):
            piece = self._longest_at(text, at)
            at += len(piece)
            token = self._ids.get(piece, self.unk_id)
            if token != self.unk_id:
                found.append((token, piece))
                continue
            piece = piece if self.is_ipa else unicodedata.normalize("NFC", piece)
            if len(self._byte_ids) == 256:
                found += [(self._byte_ids[value], piece if not n else "") for n, value in enumerate(piece.encode())]
            elif found and found[-1][0] == self.unk_id:  # a run of unknown letters is one token, as in sentencepiece
                found[-1] = (token, found[-1][1] + piece)
            else:
                found.append((token, piece))
        return found

    def _longest_at(self, text: str, at: int) -> str:
        """The longest piece that begins at a place, or the unknown letter there, its marks included."""
        for size in range(min(self._longest, len(text) - at), 0, -1):
            piece = text[at : at + size]
            if piece in self._ids and (self.is_ipa or not self._is_lone_mark(text[at + size : at + size + 1])):
                return piece
        end = at + 1
        while not self.is_ipa and self._is_lone_mark(text[end : end + 1]):
            end += 1
        return text[at:end]

    def _is_lone_mark(self, character: str) -> bool:
        """Whether a character belongs to the one before it: a mark or a part of a syllable that is no piece itself."""
        return (
            bool(character)
            and character not in self._ids
            and (unicodedata.combining(character) > 0 or _is_hangul_end(character))
        )

    def _join(self, ids: list[int]) -> str:
        surfaces = [UNK_SURFACE if i == self.unk_id else self.pieces[i].replace(BOUNDARY, " ") for i in ids]
        surfaces = [" " if surface == SPACE else surface for surface in surfaces]
        surfaces = with_bytes_joined(surfaces, [self._values.get(i) for i in ids])
        return self._joined(surfaces)


def joining(pieces: Sequence[str]) -> Callable[[Sequence[str]], str]:
    """How the text of pieces is made of what each adds to it, by the vocabulary that they are of."""
    if any(piece.endswith(CONTINUED) for piece in pieces):
        return _with_words_joined
    return _with_blanks if has_names(pieces) else _run_together


def _run_together(surfaces: Sequence[str]) -> str:
    return "".join(surfaces).strip()


def _with_blanks(surfaces: Sequence[str]) -> str:
    return " ".join(filter(None, surfaces)).strip()


def _with_words_joined(surfaces: Sequence[str]) -> str:
    """Latin words among Chinese characters: a piece with ``@@`` goes on in the next, two words have a blank between.

    ``你 he@@ llo world`` is ``你hello world`` (subword-nmt's convention, as Paraformer has it).
    """
    text, goes_on = "", True
    for surface in filter(None, surfaces):
        text += " " * (not goes_on and text[-1].isascii() and surface[0].isascii())
        goes_on = surface.endswith(CONTINUED)
        text += surface.removesuffix(CONTINUED)
    return text.strip()


def _forms(text: str) -> Iterator[str]:
    """A text in its own form, in Unicode's canonical ones, and without variants of letters, but for raised ones."""
    yield text
    raised = any(unicodedata.decomposition(character).startswith(("<super>", "<sub>")) for character in text)
    for form in ("NFC", "NFD") if raised else ("NFC", "NFD", "NFKC", "NFKD"):
        yield unicodedata.normalize(form, text)


def has_names(pieces: Sequence[str]) -> bool:
    """Whether pieces are names of several letters (ARPABET, pinyin, words), which a text has blanks between."""
    special = (*BLANKS, *SENTENCE_MARKS, UNK)
    plain = {piece for piece in pieces if piece not in special and byte_of(piece) is None}
    if SPACE in plain or any(BOUNDARY in piece or " " in piece for piece in plain):
        return False
    return 2 * sum(map(_is_name, plain)) > len(plain) and not are_phones(_written(pieces))


def _written(pieces: Sequence[str]) -> list[str]:
    """The pieces that texts are written with: no marks in angle brackets."""
    return [piece for piece in pieces if not (len(piece) > 2 and piece[0] == "<" and piece[-1] == ">")]


def _is_name(piece: str) -> bool:
    """Whether a piece is two Latin letters or more, marks aside, such as ``aa``, ``zhong1`` and ``yes``."""
    letters = [c for c in unicodedata.normalize("NFD", piece) if unicodedata.category(c)[0] != "M"]
    return len(letters) > 1 and unicodedata.name(letters[0], "").startswith("LATIN ")


def _is_hangul_end(character: str) -> bool:
    """Whether a character is a vowel or a final of a Korean syllable that is written in parts."""
    return "\u1160" <= character <= "\u11ff"


def read_tokens(path: str | Path) -> list[str]:
    """Pieces of a ``tokens.txt`` in the order of their ids; disambiguation symbols (``#0``) are left out.

    Lines are ``piece id``, or all of them ``id piece``; an id alone is that of the space, as sherpa writes it. FunASR's
    lists of characters have no ids: a piece on each line, the blank first, or a ``tokens.json``. Raises `UserError`
    naming the file and line when it is not a table of ids 0, 1, 2...
    """
    if listed := _listed_tokens(Path(path)):
        return listed
    by_id: dict[int, str] = {}
    lines = [(number, line) for number, line in enumerate(read_lines(path), 1) if line.strip(" \t")]
    rows = [(number, line, _PIECE_ID.fullmatch(line)) for number, line in lines]
    if not all(found for _, _, found in rows) and all(_ID_PIECE.fullmatch(line) for _, line in lines):
        rows = [(number, line, _ID_PIECE.fullmatch(line)) for number, line in lines]
    for number, line, found in rows:
        if not found:
            raise must_be(f"line {number} of {path}", "`piece id`", repr(line[:80]))
        piece, index = found["piece"] or " ", int(found["id"])
        if piece.startswith("#") and piece[1:].isdigit():
            continue
        if by_id.setdefault(index, piece) != piece:
            raise must_be(f"line {number} of {path}", f"a new id ({index} is taken)", repr(line[:80]))
    missing = next((i for i in range(len(by_id)) if i not in by_id), None)
    if missing is not None:
        raise must_be(str(path), "a table of ids 0, 1, 2, ...", f"without id {missing}")
    return [by_id[i] for i in range(len(by_id))]


def _listed_tokens(path: Path) -> list[str]:
    """The pieces of a list without ids; [] where it is no such list."""
    if path.suffix.lower() == ".json":
        try:
            pieces = json.loads(read_text(path))
        except (ValueError, RecursionError):
            pieces = None
        if not isinstance(pieces, list) or not all(isinstance(piece, str) and piece for piece in pieces):
            raise must_be(str(path), "a list of tokens", "another JSON, or none")
        return pieces
    lines = [line.strip(" \t") for line in read_lines(path)]
    return [line for line in lines if line] if lines[:1] and lines[0] in BLANKS else []


def first_other(theirs: Sequence[str], ours: Sequence[str]) -> int | None:
    """The first id at which pieces differ, as far as both go; the blank's name, at 0, differs between programs."""
    return next((i for i, (one, other) in enumerate(zip(theirs, ours)) if i and one != other), None)


def check_same_pieces(theirs: Sequence[str], ours: Sequence[str], origin: str) -> None:
    """Refuse what was made for another vocabulary, of the same size or not.

    Args:
        theirs: pieces by id of what ``origin`` names. ours: those of the tokenizer in use.

    Raises:
        UserError: naming the first token that is another.
    """
    other = first_other(theirs, ours)
    if other is not None:
        found = f"others: token {other} is `{theirs[other]}`, not `{ours[other]}`"
    elif len(theirs) != len(ours):
        found = f"{len(theirs)}"
    else:
        return
    raise must_be(f"tokens of {origin}", f"the {len(ours)} of the tokenizer", found, "make it with this --bpe-model")


def check_sentence_mark(pieces: Sequence[str], token: int, use: str) -> None:
    """Refuse a vocabulary whose ``token`` is a sound or a letter, where ``use`` begins and ends sentences with it.

    Raises:
        UserError: naming what the token is.
    """
    found = f"`{pieces[token]}`" if token < len(pieces) else "missing"
    if found.strip("`") not in SENTENCE_MARKS:
        expected = f"a sentence mark such as `{SOS_EOS}` for {use}"
        raise must_be(f"token {token} of the tokenizer", expected, found, "make the tokenizer with prepare.sh")


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Read a sentencepiece ``.model``, a ``tokens.txt`` or ``.json``, or a folder that holds one, the first of these.

    Raises `UserError` naming the path when there is none. Nothing in these files can execute code.
    """
    path = Path(path)
    if path.is_dir():
        models = [path / MODEL_NAME, *sorted(path.glob("*.model"))]
        found = next((p for p in [*models, path / TABLE_NAME, path / "tokens.json"] if p.is_file()), None)
        if found is None:
            raise UserError(f"{path} holds neither a *.model nor a {TABLE_NAME}; run prepare.sh's tokenizer stage")
        path = found
    if not path.is_file():
        raise UserError(f"tokenizer {path} does not exist; run prepare.sh's tokenizer stage or fix the path")
    unit = unit_beside(path)
    is_ipa = unit.is_ipa if unit else None
    if path.suffix in (".txt", ".json"):
        return TokenTable(read_tokens(path), str(path), is_ipa)
    return SentencePieceTokenizer(path.read_bytes(), str(path), is_ipa)


def train_tokenizer(
    texts: Iterable[str],
    out_dir: str | Path,
    vocab_size: int | None = None,
    kind: str = "phones",
    at_most: bool = False,
) -> Tokenizer:
    """Make a vocabulary from training texts and write ``bpe.model`` and ``tokens.txt`` into a folder.

    Args:
        texts: transcripts; for ``phones`` IPA in any form.
        out_dir: folder for the two files; of ``chars`` there is a table alone.
        vocab_size: number of pieces with the three special ones; for ``phones`` and ``chars`` an upper limit (the most
            frequent are kept), None for all of them.
        kind: ``phones`` (whole IPA segments), ``unigram`` or ``bpe`` (sentencepiece, trained), ``chars``.
        at_most: fewer pieces will do for ``unigram`` and ``bpe`` too, where the texts have no more.

    Raises `UserError` for an unknown kind, no text, or a size that the texts cannot fill.
    """
    if kind not in KINDS:
        raise must_be("kind of tokenizer", "one of " + ", ".join(KINDS), repr(kind))
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise UserError("there is no text to make a tokenizer from; are the transcripts of the training set empty?")
    if kind == "chars":
        table = TokenTable(_characters(texts, vocab_size), "the new table", is_ipa=False)
        table.save_tokens(Path(out_dir) / TABLE_NAME)
        (Path(out_dir) / MODEL_NAME).unlink(missing_ok=True)  # another vocabulary's, which would be read first
        return table
    if kind == "phones":
        model = _train_phones(texts, vocab_size)
    else:
        model = _train_pieces(texts, vocab_size, kind, at_most)
    tokenizer = SentencePieceTokenizer(model, "the new model")
    tokenizer.save_model(Path(out_dir) / MODEL_NAME)
    tokenizer.save_tokens(Path(out_dir) / TABLE_NAME)
    return tokenizer


def _characters(texts: list[str], vocab_size: int | None) -> list[str]:
    """The texts' characters behind the special pieces, most frequent first; the blank between words is one."""
    counts = Counter(SPACE if character == " " else character for text in texts for character in " ".join(text.split()))
    special = [BLANK, SOS_EOS, UNK]
    room = len(counts) if vocab_size is None else max(vocab_size - len(special), 0)
    if not room:
        raise must_be("vocab_size", f"more than the {len(special)} special pieces", vocab_size)
    return special + sorted(counts, key=lambda character: (-counts[character], character))[:room]


def _train_phones(texts: list[str], vocab_size: int | None) -> bytes:
    """A model whose pieces are the texts' IPA segments, most frequent first.

    The pieces are sentencepiece's user-defined symbols, which it matches longest first before anything else; `bpe`
    is the one trainer that accepts that nothing is left to learn.
    """
    counts = Counter(phone for text in texts for phone in segment(text))
    room = len(counts) if vocab_size is None else max(vocab_size - 3, 0)
    phones = sorted(counts, key=lambda phone: (-counts[phone], phone))[:room]
    if not phones:
        raise UserError("there is no phone in the texts (or `vocab_size` leaves room for none)")
    return _sentencepiece(["".join(phones)], "bpe", len(phones) + 3, phones)


def _train_pieces(texts: list[str], vocab_size: int | None, kind: str, at_most: bool) -> bytes:
    if vocab_size is None:
        raise must_be("vocab_size", f"given for a {kind} tokenizer", "missing")
    return _sentencepiece(texts, kind, vocab_size, [], at_most)


def _sentencepiece(texts: list[str], kind: str, vocab_size: int, phones: list[str], at_most: bool = False) -> bytes:
    """Train with icefall's layout of special pieces; one thread, so that the same texts give the same model."""
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type=kind,
            vocab_size=vocab_size,
            user_defined_symbols=[BLANK, SOS_EOS, *phones],
            unk_id=2,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            character_coverage=1.0,
            normalization_rule_name="identity",
            max_sentence_length=1 << 20,
            num_threads=1,
            minloglevel=2,
            add_dummy_prefix=not phones,
            hard_vocab_limit=not at_most,
        )
    except RuntimeError as error:
        reason = str(error).split("] ")[-1].strip() or str(error)
        raise UserError(f"`vocab_size` {vocab_size} does not fit these texts: {reason}") from None
    return model.getvalue()
