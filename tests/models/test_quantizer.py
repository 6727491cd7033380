"""Quantizer: codebook, positions, options, names, and what batches do not change."""

import copy
import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from couloir.errors import UserError
from couloir.models.quantizer.codebook import Codebook
from couloir.models.quantizer.config import PRESETS, QuantizerConfig
from couloir.models.quantizer.layers import Rotary, turned
from couloir.models.quantizer.loading import (
    expanded,
    load_quantizer,
    merged,
    own_names,
    quantizer_config,
    read_quantizer,
)
from couloir.models.quantizer.model import build_model

SMALL = QuantizerConfig(encoder_dim=128, num_heads=2, audio_context=20, codes=12, mask_code=-1, codebook_dim=8)
HAND = {"encoder_dim": 2, "num_heads": 1, "codes": 2, "mask_code": -1, "codebook_dim": 2}


def hand_book(**changes):
    """Three rows of two channels, whose step is computed by hand below."""
    book = Codebook(QuantizerConfig(**HAND, **changes))
    rows = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]])
    book.load_state_dict(
        {"initted": torch.ones(1), "cluster_size": torch.ones(1, 3), "embed_avg": rows, "embed": rows.clone()}
    )
    return book


VECTORS = torch.tensor([[0.6, 0.8], [1.0, 0.0], [0.8, 0.6]])


def test_a_step_of_the_averages():
    """0.9 old + 0.1 (sum of what is assigned), normalised."""
    book = hand_book()
    ids = book.nearest(VECTORS)
    assert ids.tolist() == [1, 0, 0]
    assert ((book.rows(ids) - VECTORS) ** 2).mean().item() == pytest.approx(0.13333334, abs=1e-7)
    book.follow(VECTORS, ids)
    torch.testing.assert_close(book.cluster_size, torch.tensor([[1.1, 1.0, 0.9]]))
    torch.testing.assert_close(book.embed_avg, torch.tensor([[[1.08, 0.06], [0.06, 0.98], [-0.9, 0.0]]]))
    rows = torch.tensor([[[0.998460, 0.055470], [0.061110, 0.998131], [-1.0, 0.0]]])
    torch.testing.assert_close(book.embed, rows, atol=1e-6, rtol=0)


def test_vectors_that_do_not_count():
    book, other = hand_book(), hand_book()
    book.follow(VECTORS, torch.tensor([1, 0, 0]), torch.tensor([True, False, True]))
    other.follow(VECTORS[[0, 2]], torch.tensor([1, 0]))
    assert torch.equal(book.embed_avg, other.embed_avg)
    assert book.cluster_size[0].tolist() == pytest.approx([1.0, 1.0, 0.9])


def test_a_forgotten_row_vanishes_at_last():
    """As measured of the reference: its direction stays for about 630 steps; its norm is 0.52 at 640, 0.063 at 660."""
    book, norms = hand_book(), {}
    for step in range(1, 701):
        book.follow(VECTORS, torch.tensor([1, 0, 0]))
        norms[step] = book.embed[0, 2].norm().item()
    assert norms[600] == pytest.approx(1.0, abs=1e-3)
    assert [norms[step] for step in (640, 660)] == pytest.approx([0.52, 0.063], rel=0.02)
    assert norms[700] == pytest.approx(9e-4, rel=0.1)


def test_rows_that_nothing_is_assigned_to_are_replaced():
    torch.manual_seed(0)
    book = hand_book(dead_below=0.95)
    book.follow(VECTORS, torch.tensor([1, 0, 0]))
    assert (VECTORS - book.embed[0, 2]).norm(dim=1).min() < 1e-6
    assert book.cluster_size[0].tolist() == pytest.approx([1.1, 1.0, 0.95])


def test_the_masks_row_can_be_left_out_of_the_search():
    vectors = torch.tensor([[-1.0, 0.1], [1.0, 0.0]])
    assert hand_book().nearest(vectors).tolist() == [2, 0]
    assert hand_book(search_mask=False).nearest(vectors).tolist() == [1, 0]


def _rank(rank, path, results):
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    book = hand_book(dead_below=0.3)
    part = slice(0, 1) if rank == 0 else slice(1, 3)
    for _ in range(3):
        book.follow(VECTORS[part], book.nearest(VECTORS[part]))
    results.put((rank, {name: t.tolist() for name, t in book.state_dict().items()}))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_train_one_codebook(tmp_path):
    """Equal to one process on the same vectors."""
    context = mp.get_context("spawn")
    results = context.SimpleQueue()
    mp.spawn(_rank, (tmp_path / "meet", results), nprocs=2)
    first, second = dict(results.get() for _ in range(2)).values()
    assert first == second
    book = hand_book(dead_below=0.3)
    for _ in range(3):
        book.follow(VECTORS, book.nearest(VECTORS))
    for name, tensor in book.state_dict().items():
        torch.testing.assert_close(torch.tensor(first[name]), tensor, atol=1e-6, rtol=0)


def test_rotary_positions():
    """By hand for (1, 2, 3, 4): angles of position p are p and p / 100."""
    rotary = Rotary(4)
    torch.testing.assert_close(rotary.inv_freq, torch.tensor([1.0, 0.01]))
    found = turned(torch.tensor([1.0, 2.0, 3.0, 4.0]).expand(1, 1, 3, 4), rotary.turns(3))[0, 0]
    expected = [[1, 2, 3, 4], [-1.984111, 1.959901, 2.462378, 4.019800], [-3.144039, 1.919605, -0.339143, 4.039197]]
    torch.testing.assert_close(found, torch.tensor(expected), atol=2e-6, rtol=0)


def test_scores_are_a_quarter_of_the_product():
    """At a head width of 64 and the usual multiplier; by hand in float64 for one head."""
    torch.manual_seed(0)
    attention = build_model(SMALL)._out_blocks[0].attn.double()
    for p in attention.parameters():
        torch.nn.init.normal_(p, std=0.1)
    x = torch.randn(1, 5, 128, dtype=torch.float64)
    with torch.no_grad():
        angle = torch.arange(5)[:, None] * 10000.0 ** (-torch.arange(32) / 32.0)
        turn = torch.polar(torch.ones_like(angle), angle).to(torch.complex128)
        heads = []
        for part in (slice(0, 64), slice(64, 128)):
            q, k, v = (layer(x)[0, :, part] for layer in (attention.query, attention.key, attention.value))
            q, k = (torch.complex(y[:, :32], y[:, 32:]) * turn for y in (q, k))
            heads.append(torch.softmax((q @ k.conj().T).real / 4, dim=-1) @ v)
        expected = attention.out(torch.cat(heads, dim=-1))
        torch.testing.assert_close(attention(x)[0], expected, atol=1e-6, rtol=1e-6)


@pytest.fixture
def model():
    torch.manual_seed(0)
    found = build_model(SMALL).eval()
    for parameter in found.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return found


def test_batches_and_order_change_nothing(model):
    encoded = torch.randn(3, 20, 128)
    ids = model.quantize(encoded)
    assert ids.shape == (3, 10)
    assert torch.equal(model.quantize(encoded[[2, 0]]), ids[[2, 0]])
    lens = torch.tensor([10, 3, 0])
    with torch.no_grad():
        together = model.dequantize(ids, lens)
        assert together.shape == (3, 20, 128)
        for row, length in enumerate(lens):
            torch.testing.assert_close(model.dequantize(ids[row : row + 1, :length])[0], together[row])
            padded = torch.cat([ids[row, :length], torch.full((10 - length,), 12)])
            torch.testing.assert_close(model.dequantize(padded[None])[0], together[row])


def test_frames_behind_a_recording_get_the_masks_code(model):
    """In train mode, by the row as it is after the step; in eval mode nothing is replaced."""
    encoded, speech = torch.randn(1, 20, 128), torch.arange(20)[None] < 7
    before = copy.deepcopy(model.vector_quantizer.codebook)
    with torch.no_grad():
        plain = model(encoded).features
        torch.testing.assert_close(model(encoded, speech).features, plain)
        torch.testing.assert_close(plain, model.dequantize(model.quantize(encoded)))
        found = model.train()(encoded, speech)
        assert not torch.equal(found.features, plain)
        book, out = model.vector_quantizer.codebook, model.vector_quantizer.project_out
        assert not torch.equal(book.embed, before.embed)
        x = out(before.rows(found.ids)).repeat_interleave(2, dim=1)
        x = torch.where(speech[..., None], x, out(book.embed[0, 12])) + model.positional_embedding.weight
        torch.testing.assert_close(found.features, model.ln_post(model._out_blocks(x)), atol=1e-5, rtol=1e-5)


def test_padding_left_out_of_averages_and_commitment(model):
    """Then what stands in the padding changes neither."""
    other = copy.deepcopy(model)
    for m in (model, other):
        m.config = m.vector_quantizer.codebook.config = QuantizerConfig(**{**vars(SMALL), "average_padding": False})
        m.train()
    encoded, speech = torch.randn(2, 20, 128), torch.arange(20) < torch.tensor([[8], [13]])
    changed = torch.where(speech[..., None] | (torch.arange(20) == 13)[None, :, None], encoded, torch.randn(2, 20, 128))
    changed[0] = torch.where(speech[0, :, None], encoded[0], changed[0])
    one, two = model(encoded, speech), other(changed, speech)
    torch.testing.assert_close(one.commitment, two.commitment)
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(dict(other.named_buffers())[name], buffer)
    torch.testing.assert_close(one.features, two.features, atol=1e-4, rtol=1e-4)


def test_the_gradient_goes_straight_through(model):
    """Of codes to vectors: the sum of outputs has that of the vectors in their place."""
    model.train()
    encoded = torch.randn(1, 20, 128, requires_grad=True)
    found = model(encoded)
    found.features.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert encoded.grad.abs().sum() > 0
    assert not any(buffer.requires_grad for buffer in model.buffers())


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (torch.zeros(10, dtype=torch.int64), "shape"),
        (torch.zeros(1, 11, dtype=torch.int64), "up to 10"),
        (torch.tensor([[13]]), "from 0 to 12"),
        (torch.tensor([[-1]]), "from 0 to 12"),
    ],
)
def test_ids_that_are_none(ids, said, model):
    with pytest.raises(ValueError, match=said):
        model.dequantize(ids)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"codes": 0}, "`--codes` must be at least 1"),
        ({"num_heads": 5}, "an even multiple of --num-heads"),
        ({"downsampling": 7}, "a divisor of 1500"),
        ({"mask_code": 2561}, "at most 2560"),
        ({"decay": 1.0}, "between 0 and 1"),
        ({"query_mult": 0.0}, "above 0"),
        ({"dead_below": -1.0}, "0 or more"),
    ],
)
def test_sizes_that_cannot_be(change, said):
    with pytest.raises(UserError, match=said):
        QuantizerConfig(**change)


def test_numbers_of_tokens():
    lens = torch.tensor([samples // 160 for samples in (201, 639, 640, 1279, 1280, 16000, 479999, 480000)])
    assert build_model(SMALL).token_lens(lens).tolist() == [0, 0, 1, 1, 2, 25, 749, 750]


@pytest.mark.parametrize(
    ("name", "parameters", "buffers"),
    [
        ("merge-medium-vi-2d-2560c-dim64", 22_661_184, 332_965),
        ("medium-vi-2d-2048c-dim64", 22_661_184, 266_405),
        ("medium-vi-2d-512c-dim64", 22_661_184, 66_725),
        ("large-v3-vi-2d-512c-dim64", 34_880_064, 66_725),
        ("base-2d-512c-dim64", 6_087_744, 66_725),
        ("tiny.en-2d-512c-dim64", 3_582_784, 66_725),
    ],
)
def test_published_counts(name, parameters, buffers):
    with torch.device("meta"):
        model = build_model(PRESETS[name])
    assert len(model.state_dict()) == 36
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(b.numel() for b in model.buffers()) == buffers


MEDIUM = {
    "_codebook_usage": (2561,), "val_true": (1,), "val_total": (1,),
    "mlp.0.weight": (4096, 1024), "mlp.0.bias": (4096,), "mlp.2.weight": (1024, 4096), "mlp.2.bias": (1024,),
    "mlp_ln.weight": (1024,), "mlp_ln.bias": (1024,),
    "rq.layers.0.project_in.weight": (64, 1024), "rq.layers.0.project_in.bias": (64,),
    "rq.layers.0.project_out.weight": (1024, 64), "rq.layers.0.project_out.bias": (1024,),
    "rq.layers.0._codebook.initted": (1,), "rq.layers.0._codebook.cluster_size": (1, 2561),
    "rq.layers.0._codebook.embed_avg": (1, 2561, 64), "rq.layers.0._codebook.embed": (1, 2561, 64),
    "positional_embedding.weight": (1500, 1024),
    "_out_blocks.0.attn.query.weight": (1024, 1024), "_out_blocks.0.attn.query.bias": (1024,),
    "_out_blocks.0.attn.key.weight": (1024, 1024),
    "_out_blocks.0.attn.value.weight": (1024, 1024), "_out_blocks.0.attn.value.bias": (1024,),
    "_out_blocks.0.attn.out.weight": (1024, 1024), "_out_blocks.0.attn.out.bias": (1024,),
    "_out_blocks.0.attn.rotary.inv_freq": (32,),
    "_out_blocks.0.attn_ln.weight": (1024,), "_out_blocks.0.attn_ln.bias": (1024,),
    "_out_blocks.0.mlp.0.weight": (4096, 1024), "_out_blocks.0.mlp.0.bias": (4096,),
    "_out_blocks.0.mlp.2.weight": (1024, 4096), "_out_blocks.0.mlp.2.bias": (1024,),
    "_out_blocks.0.mlp_ln.weight": (1024,), "_out_blocks.0.mlp_ln.bias": (1024,),
    "ln_post.weight": (1024,), "ln_post.bias": (1024,),
}  # fmt: skip


def test_names_and_shapes_of_the_released_model():
    with torch.device("meta"):
        state = build_model(QuantizerConfig()).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == MEDIUM


@pytest.mark.parametrize("name", PRESETS)
def test_published_sizes_are_found(name):
    with torch.device("meta"):
        state = build_model(PRESETS[name]).state_dict()
    assert quantizer_config(own_names(state), "x.pt") == PRESETS[name]


def old_library(weights):
    return {name.replace("_out_blocks.", "out_blocks."): t for name, t in weights.items() if "usage" not in name}


def new_library(weights):
    found = {name.replace("rq.layers.0.project", "rq.project"): t for name, t in weights.items()}
    return {name: torch.tensor(True) if name.endswith("initted") else t for name, t in found.items()}


@pytest.mark.parametrize("names", [dict, old_library, new_library])
@pytest.mark.parametrize("entry", ["state_dict", "lightning", "bare"])
def test_files_load(entry, names, model, tmp_path):
    weights = names(model.state_dict())
    if entry == "lightning":
        weights = {f"model.{name}": tensor for name, tensor in weights.items()}
    torch.save(weights if entry == "bare" else {"state_dict": weights, "epoch": 3}, tmp_path / "x.ckpt")
    found = load_quantizer(tmp_path / "x.ckpt")
    assert found.config.rows == 13
    assert found.config.mask_row == 12
    for name, tensor in model.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


def test_files_that_are_refused(model, tmp_path, capsys):
    path = tmp_path / "x.pth"
    torch.save({"state_dict": {"a": torch.zeros(1)}}, path)
    with pytest.raises(UserError, match="no quantizer of speech"):
        load_quantizer(path)
    torch.save({"config": Evil(), "state_dict": model.state_dict()}, path)
    with pytest.raises(UserError, match="refused"):
        load_quantizer(path)
    assert "executed" not in capsys.readouterr().out
    torch.save({"state_dict": model.state_dict()}, path)
    with pytest.raises(UserError, match="codes` must be 2560, but is 12"):
        load_quantizer(path, QuantizerConfig())


def test_expansion_of_512_codes_draws_the_references_map():
    """Rows of the result by row of the source; the copies are as far from them as the noise."""
    numbers = torch.arange(513.0)
    book = {"embed": numbers[None, :, None].expand(1, 513, 64), "cluster_size": numbers[None]}
    weights = {f"rq.layers.0._codebook.{name}": t for name, t in {**book, "embed_avg": book["embed"]}.items()}
    torch.manual_seed(0)
    found = expanded({**weights, "mlp.0.bias": numbers}, 2048)
    assert found["mlp.0.bias"] is numbers
    for name, tensor in weights.items():
        grown = found[name]
        assert grown.shape[1] == 2049
        sources = torch.tensor([*range(513)] * 3 + [*range(510)])
        assert grown.round().reshape(2049, -1)[:, 0].tolist() == sources.tolist()
        assert torch.equal(grown[:, :513], tensor)
        noise = grown[:, 513:] - tensor[:, sources[513:]]
        assert noise.std().item() == pytest.approx(0.01, rel=0.05)
    assert found["rq.layers.0._codebook.embed"][0, 2048, 0].round().item() == 509


def test_clean_expansion_keeps_the_mask_last(model):
    weights = model.state_dict()
    found = expanded(weights, 30, whole=False)["rq.layers.0._codebook.embed"]
    old = weights["rq.layers.0._codebook.embed"]
    assert found.shape == (1, 31, 8)
    assert torch.equal(found[:, -1], old[:, -1])
    torch.testing.assert_close(found[:, :12], old[:, :12])
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(1, 31))
    similarity = found[0, :-1] @ old[0].T
    assert similarity.argmax(dim=1).tolist() == [i % 12 for i in range(30)]


def test_merging_puts_the_old_codes_behind_the_mask(model):
    """2048 and the mask, then 512: the released layout, here 12 and 5."""
    torch.manual_seed(1)
    first = build_model(QuantizerConfig(**{**vars(SMALL), "codes": 5})).state_dict()
    found = merged(model.state_dict(), first)
    for name in ("embed", "embed_avg", "cluster_size"):
        key = f"rq.layers.0._codebook.{name}"
        assert torch.equal(found[key][:, :13], model.state_dict()[key])
        assert torch.equal(found[key][:, 13:], first[key][:, :5])
    config = quantizer_config(found, "x", QuantizerConfig(**{**vars(SMALL), "mask_code": 12}))
    assert (config.codes, config.rows, config.mask_row) == (17, 18, 12)
    narrow = build_model(QuantizerConfig(**{**vars(SMALL), "codebook_dim": 4})).state_dict()
    with pytest.raises(UserError, match="8 channels wide, but is 4"):
        merged(model.state_dict(), narrow)


def test_initial_weights():
    """Cut normals whose spread is 1.5 over the inputs; unit rows; nothing counted."""
    torch.manual_seed(0)
    model = build_model(QuantizerConfig(encoder_dim=256, num_heads=4))
    for name, inputs in (("mlp.0", 256), ("mlp.2", 1024), ("rq.layers.0.project_out", 64)):
        weight = model.get_submodule(name).weight
        # A normal that is cut at three standard deviations has 0.9866 of its spread.
        assert weight.std().item() == pytest.approx(0.9866 * 1.5 / inputs, rel=0.02)
        assert weight.abs().max() <= 4.5 / inputs
    assert model.positional_embedding.weight.std().item() == pytest.approx(0.9866 * 0.045, rel=0.02)
    book = model.vector_quantizer.codebook
    torch.testing.assert_close(book.embed.norm(dim=-1), torch.ones(1, 2561))
    assert torch.equal(book.embed, book.embed_avg)
    assert book.cluster_size.sum() == 0
    assert math.isclose(book.initted.item(), 1.0)


def test_no_file(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_quantizer(tmp_path / "none.pth")
