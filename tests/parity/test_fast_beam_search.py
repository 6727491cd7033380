"""The graph search against k2's RnntDecodingStreams: lattices, best paths and n-best, state by state and arc by arc."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from couloir.decoding.fsa.graph import make_graph
from couloir.decoding.fsa.lattice import PathAutomaton, follow, make_lattice, sample_paths
from couloir.decoding.fsa.search import SearchLimits
from couloir.decoding.transducer.emissions import TransducerEmissions
from couloir.decoding.transducer.graph_search import fast_beam_search, fast_beam_search_nbest, search_graph

FOLDER = Path(__file__).parent / "data" / "k2"
CASES = sorted(path.stem[len("fbs_") :] for path in FOLDER.glob("fbs_*.npz"))
NBEST = ["trivial_ctx1", "trivial_wide"]


class TableDecoder(torch.nn.Module):
    """Gives the number of a token history."""

    def __init__(self, vocab_size, context_size):
        super().__init__()
        self.vocab_size, self.context_size = vocab_size, context_size

    def forward(self, tokens, need_pad=False):
        powers = self.vocab_size ** torch.arange(self.context_size - 1, -1, -1)
        return (tokens * powers).sum(1)[:, None, None].float()


class TableJoiner(torch.nn.Module):
    """Looks log-probabilities up: encoder frames are (utterance, frame) pairs."""

    def __init__(self, table):
        super().__init__()
        self.table = table
        self.encoder_proj = self.decoder_proj = torch.nn.Identity()

    def forward(self, frames, histories, project_input=True):
        return self.table[frames[:, 0].long(), frames[:, 1].long(), histories[:, 0].long()]


class TableModel:
    def __init__(self, table, vocab_size, context_size):
        self.decoder, self.joiner = TableDecoder(vocab_size, context_size), TableJoiner(table)


def ragged(golden, name):
    splits, values = golden[f"{name}_splits"], golden[f"{name}_values"]
    return [values[a:b].tolist() for a, b in zip(splits, splits[1:])]


class Case:
    def __init__(self, name):
        golden = self.golden = np.load(FOLDER / f"fbs_{name}.npz")
        table, vocab = torch.from_numpy(golden["logp"]), int(golden["vocab_size"])
        batch, frames = table.shape[:2]
        grid = torch.meshgrid(torch.arange(batch), torch.arange(frames), indexing="ij")
        self.model = TableModel(table, vocab, int(golden["decoder_history_len"]))
        self.encoder_out, self.lens = torch.stack(grid, -1).float(), torch.from_numpy(golden["lens"])
        self.limits = SearchLimits(
            float(golden["beam"]),
            int(golden["max_contexts"]),
            int(golden["max_states"]),
            bool(golden["allow_partial"]),
        )
        arcs = torch.from_numpy(golden["graph_arcs"])
        outputs = [[max(label, 0) for label in labels] for labels in ragged(golden, "graph_aux")]
        width = max(map(len, outputs))
        self.graph = make_graph(
            *arcs.unbind(1),
            torch.from_numpy(golden["graph_scores"]),
            torch.tensor([labels + [0] * (width - len(labels)) for labels in outputs]),
            int(golden["num_graph_states"]),
            sort=False,
        )

    def search(self, function=fast_beam_search, **kwargs):
        return function(self.model, self.encoder_out, self.lens, self.graph, self.limits, **kwargs)


@pytest.fixture(params=CASES)
def case(request):
    return Case(request.param)


def test_best_paths(case):
    found, golden = case.search(), case.golden
    assert [h.tokens for h in found] == ragged(golden, "best_tokens")
    assert [frame for h in found for frame in h.starts] == golden["best_timestamps_values"].tolist()
    assert [h.words for h in found] == ragged(golden, "best_hyp_nofinal")
    np.testing.assert_allclose([h.score for h in found], golden["best_tot_scores"], atol=1e-4)


def test_contexts_that_are_looked_at(case, monkeypatch):
    """Of each frame the same histories go to the joiner; k2 also lists those that are left behind the last frame."""
    ours, ask = set(), TransducerEmissions.log_probs

    def spy(self, frame, utterance, history):
        order = self.scorer.order[utterance].tolist()
        ours.update((frame, stream, context) for stream, context in zip(order, history.tolist()))
        return ask(self, frame, utterance, history)

    monkeypatch.setattr(TransducerEmissions, "log_probs", spy)
    case.search(search_graph, keep_arcs=True)
    theirs = {tuple(row) for row in case.golden["contexts_frame_stream_id"].tolist()}
    assert ours == {(frame, stream, id) for frame, stream, id in theirs if frame < case.lens[stream]}


def test_lattices(case):
    """The same states in the same order, the same arcs; ends of partial paths count once here, not once per arc."""
    golden, partial = case.golden, case.limits.allow_partial
    result, order = case.search(search_graph, keep_arcs=True)
    lattice = make_lattice(result)
    assert lattice.num_rows + len(order) == golden["lattice_state_splits"][-1]
    source = torch.repeat_interleave(lattice.splits[1:] - lattice.splits[:-1])
    ending = lattice.target >= lattice.num_rows
    theirs = golden["lattice_arcs"]
    assert Counter(lattice.label[~ending].tolist()) == Counter(theirs[theirs[:, 2] >= 0, 2].tolist())
    ours = np.sort(lattice.score[~ending].numpy())
    np.testing.assert_allclose(ours, np.sort(golden["lattice_scores"][theirs[:, 2] >= 0]), atol=1e-4)
    assert len(source) <= len(theirs) if partial else len(source) == len(theirs)
    if not partial:
        totals = torch.empty(len(order), dtype=torch.float64)
        totals[order] = torch.where(lattice.start >= 0, lattice.backward_scores()[lattice.start], -torch.inf)
        np.testing.assert_allclose(totals, golden["lattice_log_tot_scores"], atol=1e-4)


def sampled(lattice, order, num_paths, scale, moved):
    """{(utterance, labels)} of the paths at (i + 0.5) / num_paths + ``moved`` of each posterior, walked one by one."""
    splits, target, score = lattice.splits.tolist(), lattice.target.tolist(), lattice.score.double() * scale
    backward = lattice.backward_scores(scale)
    source = torch.repeat_interleave(lattice.splits[1:] - lattice.splits[:-1])
    share = (score + backward[lattice.target] - backward[source]).exp().tolist()
    found = set()
    for utterance, start in zip(order.tolist(), lattice.start.tolist()):
        for i in range(num_paths if start >= 0 else 0):
            row, position, labels = start, (i + 0.5) / num_paths + moved, []
            while row < lattice.num_rows:
                arc = splits[row]
                while position >= share[arc] and arc + 1 < splits[row + 1]:
                    position -= share[arc]
                    arc += 1
                position /= share[arc]
                labels += [label for label in lattice.aux[arc].tolist() if label > 0]
                row = target[arc]
            found.add((utterance, tuple(labels)))
    return found


@pytest.mark.parametrize("name", NBEST)
def test_nbest_paths_and_their_scores(name):
    """Those at a place that is nearer to the border between two paths than float32 can tell may be either.

    The logarithm of a path's probability is a sum of T scores. Each score, and each partial sum, is rounded with a
    standard deviation of at most u / sqrt(3) of its value: u sqrt(2 T / 3) rms(score) in all, sqrt(2) times as much for
    the difference of two paths, of which a border between P and 1 - P moves by P (1 - P) <= 1/4. Six deviations.
    """
    case = Case(name)
    golden = case.golden
    result, order = case.search(search_graph, keep_arcs=True)
    lattice = make_lattice(result)
    paths = sample_paths(lattice, int(golden["nbest_num_paths"]), float(golden["nbest_scale"]))
    utterances = np.repeat(np.arange(len(order)), np.diff(golden["nbest_utt_splits"]))
    keys = [(u, tuple(labels)) for u, labels in zip(utterances, ragged(golden, "nbest_hyp"))]
    found = [(u, tuple(labels)) for u, labels in zip(order[paths.utterance].tolist(), paths.lists())]
    scale, frames = float(golden["nbest_scale"]), int(case.lens.max())
    rms = (scale * lattice.score[lattice.score.isfinite()]).square().mean().sqrt().item()
    near = 6 * 2.0**-24 * (2 * frames / 3) ** 0.5 * rms * 2**0.5 / 4
    places = [sampled(lattice, order, int(golden["nbest_num_paths"]), scale, moved) for moved in (-near, 0, near)]
    certain, possible = set.intersection(*places), set.union(*places)
    assert len(found) == len(set(found)) and len(keys) == len(set(keys)) and len(certain) > len(keys) / 3
    assert certain <= set(found) <= possible and certain <= set(keys) <= possible
    for log_sum, column in ((False, "nbest_max_scores"), (True, "nbest_logsum_scores")):
        totals = follow(lattice, paths.utterance, PathAutomaton(paths), lattice.score, log_sum).total.tolist()
        wanted = dict(zip(keys, golden[column]))
        both = [(total, wanted[key]) for total, key in zip(totals, found) if key in wanted]
        np.testing.assert_allclose(*zip(*both), atol=1e-4)


@pytest.mark.parametrize("name", NBEST)
@pytest.mark.parametrize(("log_sum", "column"), [(False, "nbest_best_index"), (True, "nbest_LG_best_index")])
def test_nbest_choice(name, log_sum, column):
    case = Case(name)
    found = case.search(
        fast_beam_search_nbest,
        num_paths=int(case.golden["nbest_num_paths"]),
        nbest_scale=float(case.golden["nbest_scale"]),
        log_sum=log_sum,
        with_best=False,
    )
    sequences = ragged(case.golden, "nbest_hyp")
    assert [h.words for h in found] == [sequences[i] for i in case.golden[column]]


@pytest.mark.parametrize("name", CASES)
def test_one_utterance_alone_gives_the_same(name):
    case = Case(name)
    together = case.search()
    for i, expected in enumerate(together):
        alone = fast_beam_search(
            case.model, case.encoder_out[i : i + 1], case.lens[i : i + 1], case.graph, case.limits
        )[0]
        assert alone == expected
