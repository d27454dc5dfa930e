"""Gates held at their values, however a head writes them, against heads with the gates written out.

Each case gives a head and, beside it, the affine map that it should be at one image: the same head
with every gate computed once and kept as a number.
"""

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import whyalike as wa
from nets import C, H, W, randomise
from whyalike import decomposition
from whyalike.surrogates.following import OfTensors

SIZE = wa.Preprocess(size=(12, 20))


def layer_norm_by_hand(A: Tensor, at: Tensor) -> Tensor:
    u = at.mean(1, keepdim=True)
    sigma = ((at - u).pow(2).mean(1, keepdim=True) + 1e-6).sqrt()
    return ((A - A.mean(1, keepdim=True)) / sigma).mean((2, 3))


def written_layer_norm(A: Tensor) -> Tensor:
    u = A.mean(1, keepdim=True)
    s = (A - u).pow(2).mean(1, keepdim=True)
    return ((A - u) / torch.sqrt(s + 1e-6)).mean((2, 3))


def response_norm(A: Tensor, at: Tensor | None = None) -> Tensor:
    """As in ConvNeXt v2, with what each channel is scaled by taken from `at`."""
    size = (A if at is None else at).norm(dim=(2, 3), keepdim=True)
    bias, weight = torch.linspace(-1, 1, 2 * C, dtype=A.dtype).view(2, 1, C, 1, 1)
    return pooled(A + torch.addcmul(bias, weight, A * (size / (size.mean(1, keepdim=True) + 1e-6))))


def start_at_half(x: Tensor, at: Tensor) -> Tensor:
    """A sigmoid that is the value itself, not a gate: what it is at zero, and the rest by x."""
    return 0.5 + x * (at.sigmoid() - 0.5) / at


def pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def score(A: Tensor) -> Tensor:
    return A.sum(1, keepdim=True)


# name: (the head of A, the same with its gates as numbers: of A, linear, and of `at`)
CASES = {
    "layer norm, written out": (written_layer_norm, layer_norm_by_hand),
    "layer norm through var": (
        lambda A: pooled((A - A.mean(1, keepdim=True)) / (A.var(1, keepdim=True) + 1e-6).sqrt()),
        lambda A, at: pooled((A - A.mean(1, keepdim=True))
                             / (at.var(1, keepdim=True) + 1e-6).sqrt())),
    "a hard tanh that is one at zero": (
        lambda A: pooled(F.hardtanh(A.relu(), 1.0, 1.5)),
        lambda A, at: pooled((at <= 0).to(A) + A.relu()
                             * torch.where(at > 0, at.clamp(1.0, 1.5) / at, 0.0))),
    "hard-swish": (lambda A: pooled(F.hardswish(A)),
                   lambda A, at: pooled(A * F.relu6(at + 3) / 6)),
    "hard-swish, written out": (lambda A: pooled(A * F.relu6(A + 3) / 6),
                                lambda A, at: pooled(A * F.relu6(at + 3) / 6)),
    "swish, written out": (lambda A: pooled(A * A.sigmoid()),
                           lambda A, at: pooled(A * at.sigmoid())),
    "swish, by expit in place": (lambda A: pooled(A.mul(torch.special.expit(A))),
                                 lambda A, at: pooled(A * at.sigmoid())),
    "squeeze and excite": (
        lambda A: pooled(A * torch.sigmoid(A.mean((2, 3)).flip(1)).view(-1, C, 1, 1)),
        lambda A, at: pooled(A * torch.sigmoid(at.mean((2, 3)).flip(1)).view(-1, C, 1, 1))),
    "one more than a gate": (lambda A: pooled(A * (1 + score(A).sigmoid())),
                             lambda A, at: pooled(A * (1 + score(at).sigmoid()))),
    "softplus gate": (lambda A: pooled(A * F.softplus(score(A))),
                      lambda A, at: pooled(A * F.softplus(score(at)))),
    "glu": (lambda A: pooled(F.glu(A, dim=1)),
            lambda A, at: pooled(A[:, : C // 2] * at[:, C // 2 :].sigmoid())),
    "swiglu": (lambda A: pooled(F.silu(A.flip(1)) * A),
               lambda A, at: pooled(F.silu(at.flip(1)) * A)),
    "geglu, the branch second": (lambda A: pooled(A * F.gelu(A.flip(1))),
                                 lambda A, at: pooled(A * F.gelu(at.flip(1)))),
    "swish, then squeeze and excite": (
        lambda A: pooled(F.silu(A) * score(A).sigmoid()),
        lambda A, at: pooled(A * at.sigmoid() * score(at).sigmoid())),
    "global response norm": (response_norm, lambda A, at: response_norm(A, at)),
    "global response norm of a gelu": (
        lambda A: response_norm(F.gelu(A)),
        lambda A, at: response_norm(A * F.gelu(at) / at, F.gelu(at))),
    "a product added": (
        lambda A: pooled(torch.addcmul(A, A, A.sigmoid(), value=2)),
        lambda A, at: pooled(A + 2 * A * at.sigmoid())),
    "a product added in place": (
        lambda A: pooled(A.flip(1).contiguous().addcmul_(torch.ones(C, 1, 1, dtype=A.dtype), A)),
        lambda A, at: pooled(A.flip(1) + A)),
    "a product added to a gate": (
        lambda A: pooled(torch.addcmul(score(A).sigmoid(), torch.ones_like(A), A)),
        lambda A, at: pooled(A + start_at_half(score(A), score(at)))),
    "a gate over its sum": (
        lambda A: (A.sigmoid() / A.sigmoid().sum((2, 3), keepdim=True) * A.flip(1)).sum((2, 3)),
        lambda A, at: (at.sigmoid() / at.sigmoid().sum((2, 3), keepdim=True) * A.flip(1)
                       ).sum((2, 3))),
    "softmax, written out": (
        lambda A: (A * (score(A).exp() / score(A).exp().sum((2, 3), keepdim=True))).sum((2, 3)),
        lambda A, at: (A * score(at).flatten(2).softmax(2).view(len(A), 1, H, W)).sum((2, 3))),
    "the largest, over two axes": (
        lambda A: A.amax((2, 3)),
        lambda A, at: A.flatten(2).gather(2, at.flatten(2).argmax(2, keepdim=True)).squeeze(2)),
    "the smallest, by rows": (
        lambda A: A.amin(-1, keepdim=True).mean((2, 3)),
        lambda A, at: A.gather(3, at.argmin(3, keepdim=True)).mean((2, 3))),
    "tanh times sigmoid": (
        lambda A: pooled(A.tanh() * score(A).sigmoid()),
        lambda A, at: pooled(A * (at.tanh() / at) * score(at).sigmoid())),
    "softmax over the cells": (
        lambda A: (A.flatten(2) * score(A).flatten(2).softmax(2)).sum(2),
        lambda A, at: (A.flatten(2) * score(at).flatten(2).softmax(2)).sum(2)),
    "softmax, by matmul": (
        lambda A: (A.flatten(2) @ F.softmax(score(A).flatten(2), 2).transpose(1, 2)).squeeze(2),
        lambda A, at: (A.flatten(2) * score(at).flatten(2).softmax(2)).sum(2)),
    "attention, by parts": (
        lambda A: ((A.flatten(2).mT @ A.flatten(2)).softmax(2) @ A.flatten(2).mT).mean(1),
        lambda A, at: ((at.flatten(2).mT @ at.flatten(2)).softmax(2) @ A.flatten(2).mT).mean(1)),
    "unit length": (lambda A: F.normalize(pooled(A)),
                    lambda A, at: pooled(A) / pooled(at).norm(dim=1, keepdim=True)),
    "over its norm": (lambda A: pooled(A) / pooled(A).norm(dim=1, keepdim=True),
                      lambda A, at: pooled(A) / pooled(at).norm(dim=1, keepdim=True)),
    "over the root of its squares": (
        lambda A: pooled(A) / pooled(A).pow(2).sum(1, keepdim=True).sqrt(),
        lambda A, at: pooled(A) / pooled(at).norm(dim=1, keepdim=True)),
    "times rsqrt": (lambda A: pooled(A) * torch.rsqrt((pooled(A) ** 2).sum(1, keepdim=True)),
                    lambda A, at: pooled(A) / pooled(at).norm(dim=1, keepdim=True)),
    "times one over": (lambda A: pooled(A) * (1 / pooled(A).norm(dim=1, keepdim=True)),
                       lambda A, at: pooled(A) / pooled(at).norm(dim=1, keepdim=True)),
    "instance norm": (
        lambda A: F.instance_norm(A).amax((2, 3)),
        lambda A, at: ((A - A.mean((2, 3), keepdim=True))
                       / (at.var((2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
                       ).flatten(2).gather(2, at.flatten(2).argmax(2, keepdim=True)).squeeze(2)),
    "selu in place": (lambda A: pooled(torch.selu_(A)),
                      lambda A, at: pooled(A * F.selu(at) / at)),
    "gelu by name": (lambda A: pooled(F.gelu(input=A)), lambda A, at: pooled(A * F.gelu(at) / at)),
    "relu6": (lambda A: pooled(F.relu6(A)), lambda A, at: pooled(A * F.relu6(at) / at)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_gates_are_held_however_they_are_written(name):
    head, held = CASES[name]
    A = torch.randn(2, C, H, W, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    found = decomposition.from_head(head, A)
    assert not found.taylor
    expected = torch.zeros_like(found.v)
    for cell in range(H * W):
        alone = torch.zeros_like(A).flatten(2)
        alone[..., cell] = A.flatten(2)[..., cell]
        nothing = held(torch.zeros_like(A), A)
        expected[:, cell] = held(alone.view_as(A), A) - nothing
    torch.testing.assert_close(found.v, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.v.sum(1) + found.b, head(A.clone()), rtol=1e-9, atol=1e-9)


class AttentionPool(nn.Module):
    """As CLIP's ResNets pool: the mean attends to the cells."""

    def __init__(self, need_weights: bool = True, **options) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(C, 2, batch_first=True, **options)
        self.need_weights = need_weights

    def forward(self, A: Tensor) -> Tensor:
        tokens = A.flatten(2).transpose(1, 2)
        query = tokens.mean(1, keepdim=True)
        return self.attention(query, tokens, tokens, need_weights=self.need_weights)[0][:, 0]


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"add_bias_kv": True},
                                     {"add_zero_attn": True}, {"kdim": C, "vdim": C}])  # fmt: skip
def test_multi_head_attention_holds_its_weights(need_weights, options):
    pool = randomise(AttentionPool(need_weights, **options))
    A = torch.randn(2, C, H, W, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    found = decomposition.from_head(pool, A)
    assert not found.taylor
    tokens = A.flatten(2).transpose(1, 2)
    layer = pool.attention
    _, weights = layer(tokens.mean(1, keepdim=True), tokens, tokens, average_attn_weights=False)
    same = layer.in_proj_weight is not None
    to_value = layer.in_proj_weight.chunk(3)[2] if same else layer.v_proj_weight
    values = (tokens @ to_value.T).view(2, H * W, 2, C // 2)  # n, cell, head, channel
    mixed = weights[:, :, 0, : H * W].transpose(1, 2)[..., None] * values
    expected = mixed.flatten(2) @ layer.out_proj.weight.T
    torch.testing.assert_close(found.v, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.v.sum(1) + found.b, pool(A), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("head", "names"),
    [
        (lambda A: pooled(A * A.flip(1)), {"mul"}),
        (lambda A: pooled(A * A), {"mul"}),
        (lambda A: pooled(F.silu(A) * F.silu(A.flip(1))), {"mul"}),  # which is the gate?
        (lambda A: pooled((A / A.norm()) * A), {"mul"}),  # as large as what it multiplies
        (lambda A: pooled(A.exp()), {"exp"}),
        (lambda A: pooled(A).softmax(1), {"softmax"}),
        (lambda A: pooled(A.abs().sqrt().sin()), {"sqrt", "sin"}),
        (lambda A: pooled(A.exp() / A.exp().sum(1, keepdim=True)), {"exp"}),
        (lambda A: pooled(A) / pooled(A).exp().sum(1, keepdim=True), set()),
        (lambda A: pooled(A) + 0 * A.detach().exp().sum(), set()),
    ],
)
def test_what_is_only_expanded_to_first_order_is_named(head, names):
    A = torch.randn(2, C, H, W, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    found = decomposition.from_head(head, A)
    assert found.taylor.keys() == names
    torch.testing.assert_close(found.v.sum(1) + found.b, head(A), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("end", [torch.sigmoid, F.hardsigmoid, F.softplus, torch.tanh])
def test_a_gate_that_ends_a_head_still_gives_contributions(end):
    """y = y(0) + x·(y − y(0))/x: what the cells carry is not lost in the bias."""
    A = torch.randn(1, C, H, W, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    found = decomposition.from_head(lambda A: end(pooled(A)), A)
    x = pooled(A)
    start = end(torch.zeros_like(x))
    expected = A.flatten(2).mT / (H * W) * ((end(x) - start) / x)[:, None]
    torch.testing.assert_close(found.v, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.b, start, rtol=1e-9, atol=1e-9)


def test_values_do_not_change_and_nothing_stays_behind():
    x = torch.randn(2, C, generator=torch.Generator().manual_seed(4))
    plain = F.gelu(x), F.layer_norm(x, (C,)), F.softmax(x, 1)
    decomposition.from_head(lambda A: F.gelu(pooled(A)), torch.randn(1, C, H, W))
    for before, after in zip(
        plain, (F.gelu(x), F.layer_norm(x, (C,)), F.softmax(x, 1)), strict=True
    ):
        assert torch.equal(before, after)
    with pytest.raises(RuntimeError, match="on purpose"):
        decomposition.from_head(
            lambda A: (_ for _ in ()).throw(RuntimeError("on purpose")), x[..., None, None]
        )
    y = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.gelu(y).sum(), y)
    assert not torch.allclose(gradient, F.gelu(x) / x)


def test_what_is_known_of_a_tensor_is_of_it_alone_and_goes_with_it():
    known = OfTensors[list[int]]()
    first, alike = torch.zeros(2), torch.zeros(2)
    known[first], known[alike] = [1], [2]
    assert (known[first], known.get(alike), known.get(torch.zeros(2))) == ([1], [2], None)
    known[first] = [3]
    assert (known[first], len(known)) == ([3], 2)
    del alike
    assert len(known) == 1
    del known[first]
    assert first not in known
    with pytest.raises(KeyError):
        known[first]


def test_nothing_of_it_waits_for_the_garbage_collector():
    known = OfTensors[Tensor]()
    key, value = torch.zeros(2), torch.ones(2)
    known[key] = value
    alive = weakref.ref(value)
    gc.disable()
    try:
        del known, value
        assert alive() is None
    finally:
        gc.enable()
