"""Expected errors of masked paths: hand-computed values, and where the gradient may flow."""

import math

import pytest
import torch

from couloir.losses.mwer import count_errors, expected_errors, masked_paths, mwer_loss


def distance(wanted, said):
    """Edit distance by its recursion, row by row."""
    row = list(range(len(said) + 1))
    for i, token in enumerate(wanted, start=1):
        before, row[0] = row[0], i
        for j, other in enumerate(said, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (token != other))
    return row[-1]


def random_log_probs(batch=3, tokens=6, vocabulary=9, **kwargs):
    torch.manual_seed(1)
    return torch.randn(batch, tokens, vocabulary, **kwargs).log_softmax(-1)


LENS = torch.tensor([6, 4, 0])


def test_a_path_has_the_best_or_the_second_best_token_and_the_sum_of_their_scores():
    log_probs = random_log_probs()
    torch.manual_seed(2)
    paths, scores = masked_paths(log_probs, LENS, 5, 0.4)
    order = log_probs.argsort(dim=-1, descending=True)
    assert torch.equal(paths[:, 0], order[..., 0])
    assert ((paths == order[:, None, :, 0]) | (paths == order[:, None, :, 1])).all()
    for item, length in enumerate(LENS.tolist()):
        for path, score in zip(paths[item], scores[item]):
            expected = sum(log_probs[item, k, path[k]].item() for k in range(length))
            assert score.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("with_best", [True, False])
def test_positions_are_masked_as_often_as_said(with_best):
    torch.manual_seed(3)
    log_probs = torch.tensor([0.5, 0.3, 0.2]).log().expand(4, 50, 3)
    paths, _ = masked_paths(log_probs, torch.full((4,), 50), 21, 0.1, with_best)
    drawn = paths[:, 1:] if with_best else paths
    assert set(paths.flatten().tolist()) == {0, 1}
    # 4000 positions at least: 5 standard deviations.
    assert (drawn == 1).float().mean().item() == pytest.approx(0.1, abs=0.024)
    assert ((paths[:, 0] == 1).sum() == 0) == with_best


def test_errors_are_edit_distances_of_the_texts():
    torch.manual_seed(4)
    paths = torch.randint(0, 5, (3, 4, 6))
    references = [[3, 4, 3], [4], []]
    errors = count_errors(paths, LENS, references, silent=(0, 1, 2))
    for item, length in enumerate(LENS.tolist()):
        for path, found in zip(paths[item].tolist(), errors[item].tolist()):
            assert found == distance(references[item], [t for t in path[:length] if t > 2])


def test_value_by_hand():
    # Two paths of probabilities 3 : 1 with 0 and 2 errors: 3/4 of -1 and 1/4 of +1.
    scores = torch.tensor([[math.log(0.3), math.log(0.1)]])
    assert expected_errors(scores, torch.tensor([[0.0, 2.0]])).item() == pytest.approx(-0.5)


def test_equal_errors_cost_nothing_and_a_constant_changes_nothing():
    torch.manual_seed(5)
    scores, errors = torch.randn(3, 4), torch.randint(0, 9, (3, 4)).float()
    assert expected_errors(scores, torch.full((3, 4), 7.0)).item() == pytest.approx(0.0, abs=1e-6)
    assert expected_errors(scores, errors + 5).item() == pytest.approx(expected_errors(scores, errors).item(), abs=1e-5)


def test_gradient_flows_through_the_chosen_tokens_alone():
    log_probs = random_log_probs(dtype=torch.float64).requires_grad_()
    torch.manual_seed(6)
    paths, _ = masked_paths(log_probs, LENS, 3, 0.2)
    torch.manual_seed(6)
    loss = mwer_loss(log_probs, LENS, [[1, 2], [3], [4]], 3, 0.2)
    (gradient,) = torch.autograd.grad(loss, log_probs)
    chosen = torch.zeros_like(log_probs, dtype=torch.bool).scatter(2, paths.transpose(1, 2), True)
    chosen &= (torch.arange(6) < LENS[:, None])[:, :, None]
    assert (gradient[~chosen] == 0).all()
    assert (gradient[chosen] != 0).any()
    # A token that all paths share moves all of their scores alike.
    shared = chosen & (chosen.sum(dim=-1, keepdim=True) == 1)
    assert gradient[shared].abs().max() < 1e-12


def test_descent_makes_the_right_path_likelier():
    logits = torch.zeros(1, 3, 5)
    logits[0, range(3), [1, 2, 3]] = 0.2  # a little better than the right ones
    logits[0, range(3), [4, 4, 4]] = 0.1
    logits.requires_grad_()
    torch.manual_seed(7)
    for _ in range(60):
        loss = mwer_loss(logits.log_softmax(-1), torch.tensor([3]), [[4, 4, 4]], 8, 0.5)
        (gradient,) = torch.autograd.grad(loss, logits)
        with torch.no_grad():
            logits -= 0.5 * gradient
    assert logits[0].argmax(dim=-1).tolist() == [4, 4, 4]
