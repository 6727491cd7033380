import pytest
import torch

from couloir.decoding.context_graph import ContextGraph, read_context_file
from couloir.errors import UserError
from couloir.text.tokenizer import TokenTable

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
PHRASES = ["HE", "SHE", "HIS", "HERS"]


def ids(text):
    return [LETTERS.index(letter) + 1 for letter in text]


def run(graph, text):
    state, total = graph.start(1, torch.device("cpu")), 0.0
    for token in ids(text):
        gain, state = graph.step(state, torch.tensor([token]))
        total += gain.item()
    return total, total + graph.final(state).item()


@pytest.mark.parametrize(
    ("text", "strict", "loose"),
    [("HEHERSHE", (16, 13), (7, 7)), ("HISHE", (11, 8), (5, 5)), ("SHEK", (5, 5), (3, 3)), ("THERE", (2, 2), (2, 2))],
)
def test_icefalls_check_values(text, strict, loose):
    phrases = [ids(phrase) for phrase in PHRASES]
    assert run(ContextGraph(phrases, 1.0), text) == strict
    assert run(ContextGraph(phrases, 1.0, strict=False), text) == loose


def brute_force(phrases, scores, text):
    """The longest suffix of the text that begins a phrase, found by trying; every phrase that ends adds itself."""
    worth: dict[str, float] = {}
    for phrase, score in zip(phrases, scores):
        for n in range(1, len(phrase) + 1):
            worth[phrase[:n]] = max(worth.get(phrase[:n], -1e9), score)
    earned = lambda prefix: sum(worth[prefix[:n]] for n in range(1, len(prefix) + 1))  # noqa: E731
    total, held = 0.0, 0.0
    for n in range(1, len(text) + 1):
        suffixes = [text[i:n] for i in range(n)]
        now = next((earned(s) for s in suffixes if s in worth), 0.0)
        total += now - held + sum(earned(s) for s in suffixes if s in phrases)
        held = now
    return total, total - held


def test_per_phrase_scores_equal_a_brute_force():
    generator = torch.Generator().manual_seed(3)
    draw = lambda low, high: int(torch.randint(low, high, (1,), generator=generator))  # noqa: E731
    for _ in range(50):
        phrases = list({"".join("ABC"[draw(0, 3)] for _ in range(draw(1, 5))) for _ in range(4)})
        scores = [float(draw(1, 6)) for _ in phrases]
        text = "".join("ABCD"[draw(0, 4)] for _ in range(12))
        found = run(ContextGraph([ids(p) for p in phrases], 9.0, scores), text)
        assert found == pytest.approx(brute_force(phrases, scores, text)), (phrases, scores, text)


def test_a_score_of_zero_means_the_default():
    assert run(ContextGraph([ids("AB")], 2.5, [0.0]), "AB") == run(ContextGraph([ids("AB")], 2.5), "AB")


def test_steps_are_independent_across_hypotheses():
    graph = ContextGraph([ids(phrase) for phrase in PHRASES], 1.0)
    texts = ["HERS", "SHES", "XHIS"]
    state, total = graph.start(3, torch.device("cpu")), torch.zeros(3)
    for tokens in zip(*(ids(text) for text in texts)):
        gain, state = graph.step(state, torch.tensor(tokens))
        total = total + gain
    assert total.tolist() == [run(graph, text)[0] for text in texts]


def test_no_phrases_change_nothing():
    assert run(ContextGraph([], 1.0), "HE") == (0.0, 0.0)


@pytest.mark.parametrize("phrases", [[[]], [[0, 3]]])
def test_phrases_need_tokens(phrases):
    with pytest.raises(UserError, match="hotword phrase"):
        ContextGraph(phrases, 1.0)


class TestContextFile:
    tokenizer = TokenTable(["<blk>", "<sos/eos>", "<unk>", "a", "b", "c"])

    def test_phrases_with_and_without_a_score(self, tmp_path):
        (tmp_path / "hot.txt").write_text("ab\n\nbc :3.5\n")
        graph = read_context_file(tmp_path / "hot.txt", self.tokenizer, 1.0)
        gain, _ = graph.step(graph.start(2, torch.device("cpu")), torch.tensor([3, 4]))
        assert gain.tolist() == [1.0, 3.5]

    def test_unknown_symbols_are_named_with_their_line(self, tmp_path):
        (tmp_path / "hot.txt").write_text("ab\nazb\n")
        with pytest.raises(UserError, match=r"line 2 of .*hot.txt.* no z"):
            read_context_file(tmp_path / "hot.txt", self.tokenizer, 1.0)

    @pytest.mark.parametrize("text", ["", "\n\n"])
    def test_an_empty_file_is_refused(self, tmp_path, text):
        (tmp_path / "hot.txt").write_text(text)
        with pytest.raises(UserError, match="empty"):
            read_context_file(tmp_path / "hot.txt", self.tokenizer, 1.0)

    def test_a_missing_file_and_a_bad_score(self, tmp_path):
        with pytest.raises(UserError, match="does not exist"):
            read_context_file(tmp_path / "none.txt", self.tokenizer, 1.0)
        (tmp_path / "hot.txt").write_text("ab :much\n")
        with pytest.raises(UserError, match="phrase :score"):
            read_context_file(tmp_path / "hot.txt", self.tokenizer, 1.0)


def brute_force_loose(phrases, scores, text):
    """As `brute_force`, but the longest phrase that ends at a letter counts alone, and nothing goes on behind it."""
    worth: dict[str, float] = {}
    for phrase, score in zip(phrases, scores):
        for n in range(1, len(phrase) + 1):
            worth[phrase[:n]] = max(worth.get(phrase[:n], -1e9), score)
    earned = lambda prefix: sum(worth[prefix[:n]] for n in range(1, len(prefix) + 1))  # noqa: E731
    total, begin, held = 0.0, 0, 0.0
    for n in range(1, len(text) + 1):
        suffixes = [text[i:n] for i in range(begin, n)]
        running = next((s for s in suffixes if s in worth), "")
        # Only what ends inside the phrase that is followed counts: the automaton has left the rest behind.
        ended = next((s for s in suffixes if s in phrases and running.endswith(s)), None)
        if ended is not None:
            total, begin, held = total + earned(ended) - held, n, 0.0
        else:
            total, held = total + (earned(running) if running else 0.0) - held, earned(running) if running else 0.0
    return total, total - held


def test_without_overlaps_per_phrase_scores_equal_a_brute_force():
    generator = torch.Generator().manual_seed(5)
    draw = lambda low, high: int(torch.randint(low, high, (1,), generator=generator))  # noqa: E731
    differ = 0
    for _ in range(60):
        phrases = list({"".join("ABC"[draw(0, 3)] for _ in range(draw(1, 5))) for _ in range(4)})
        scores = [float(draw(1, 6)) for _ in phrases]
        text = "".join("ABCD"[draw(0, 4)] for _ in range(12))
        graph = [ids(p) for p in phrases]
        found = run(ContextGraph(graph, 9.0, scores, strict=False), text)
        assert found == pytest.approx(brute_force_loose(phrases, scores, text)), (phrases, scores, text)
        differ += found != run(ContextGraph(graph, 9.0, scores), text)
    assert differ > 30


ICEFALLS = ["S", "HE", "SHE", "SHELL", "HIS", "HERS", "HELLO", "THIS", "THEM"]


@pytest.mark.parametrize(
    ("text", "strict", "loose"),
    [
        ("HEHERSHE", 14, 7), ("HERSHE", 12, 5), ("HISHE", 9, 5), ("SHED", 6, 3), ("SHELF", 6, 3), ("HELL", 2, 2),
        ("HELLO", 7, 2), ("DHRHISQ", 4, 3), ("THEN", 2, 2),
    ],
)  # fmt: skip
def test_icefalls_other_check_values(text, strict, loose):
    """The queries and totals of icefall's own check of its ContextGraph, at 1 a token."""
    phrases = [ids(phrase) for phrase in ICEFALLS]
    assert run(ContextGraph(phrases, 1.0), text)[1] == strict
    assert run(ContextGraph(phrases, 1.0, strict=False), text)[1] == loose


@pytest.mark.parametrize(
    ("text", "strict", "loose"),
    [
        ("HEHERSHE", 35.84, 20), ("HERSHE", 30.84, 15), ("HISHE", 24.18, 10.84), ("SHED", 18.34, 10),
        ("SHELF", 18.34, 10), ("HELL", 5, 5), ("HELLO", 13, 5), ("DHRHISQ", 10.84, 5.84), ("THEN", 5, 5),
    ],
)  # fmt: skip
def test_icefalls_check_values_with_scores_of_their_own(text, strict, loose):
    """The same queries where each phrase shares 5 among its letters, rounded to two places."""
    phrases, scores = [ids(phrase) for phrase in ICEFALLS], [round(5 / len(phrase), 2) for phrase in ICEFALLS]
    assert run(ContextGraph(phrases, 1.0, scores), text)[1] == pytest.approx(strict)
    assert run(ContextGraph(phrases, 1.0, scores, strict=False), text)[1] == pytest.approx(loose)


@pytest.mark.parametrize("strict", [False, True])
def test_the_file_reader_passes_the_rule_on(tmp_path, strict):
    (tmp_path / "hot.txt").write_text("AB\nABC\n")
    graph = read_context_file(tmp_path / "hot.txt", TokenTable(["<blk>", *LETTERS]), 1.0, strict)
    assert run(graph, "ABC")[1] == (5 if strict else 2)


class TestScores:
    TABLE = TokenTable(["<blk>", "<sos/eos>", "<unk>", "p", "a", "t"])

    @pytest.mark.parametrize(
        "score", ["nan", "inf", "-inf", "-1", "1e400", "1001", "high", "1,5", "", "NaN", "1_0", "\u0661"]
    )
    def test_a_score_that_is_no_reward_is_refused_by_line(self, tmp_path, score):
        (tmp_path / "hotwords").write_text(f"pat\npata :{score}\n")
        with pytest.raises(UserError, match="line 2 of .*score from 0 to 1000"):
            read_context_file(tmp_path / "hotwords", self.TABLE, 1.5)

    @pytest.mark.parametrize("score", [float("nan"), float("inf"), -1.0])
    def test_so_is_the_flags(self, score):
        with pytest.raises(UserError, match="--context-score"):
            ContextGraph([[3, 4]], score)

    @pytest.mark.parametrize("line", ["pata :2.5", "pata\t:2.5", "pata :2.5 ", "\ufeffpata :2.5", "pata :25e-1\r"])
    def test_forms_of_a_line(self, tmp_path, line):
        (tmp_path / "hotwords").write_bytes(f"{line}\n\npat\n".encode())
        graph = read_context_file(tmp_path / "hotwords", self.TABLE, 1.0)
        node, gains = torch.zeros(1, dtype=torch.int64), []
        for token in (3, 4, 5, 4):
            gain, node = graph.advance(node, torch.tensor([token]))
            gains.append(gain.item())
        assert gains == [2.5, 2.5, 2.5 + 7.5, 2.5 + 10.0]  # a phrase that is whole earns its sum once more

    def test_a_phrase_without_a_sound_is_named(self, tmp_path):
        (tmp_path / "hotwords").write_text("pat\n...\n")
        with pytest.raises(UserError, match="line 2 of .*a sound or letter"):
            read_context_file(tmp_path / "hotwords", self.TABLE, 1.0)
