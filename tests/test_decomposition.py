"""v and b of every kind of head, held to the oracles in float64."""

import pytest
import torch
from torch import nn

import whyalike as wa
from nets import PROJECTS, C, D, H, W, images, pooled_size, randomise, trunk
from oracle import frozen_decomposition, jacobian_decomposition
from whyalike import decomposition
from whyalike.errors import CompletenessError
from whyalike.pooling import Pool

POOLS = ("mean", "max", "gem", "flatten")
# Where every gate is piecewise linear, the full Jacobian of the head says the same.
PIECEWISE = [name for name in PROJECTS if not {"layer norm", "gelu", "silu in place",
             "hard-swish, relu6", "tanh", "unit length"} & {name}]  # fmt: skip


def build(pool: str, project: str) -> wa.EmbeddingModel:
    layers = PROJECTS[project](pooled_size(pool))
    net = randomise(nn.ModuleList([trunk(), nn.Sequential(*layers)]))
    return wa.EmbeddingModel(net[0], pool, net[1])


def head_of(model: wa.EmbeddingModel):
    return model.net.get_submodule("head")


@pytest.mark.parametrize("project", PROJECTS)
@pytest.mark.parametrize("pool", POOLS)
def test_split_equals_the_matrices_of_its_layers(pool, project):
    model = build(pool, project)
    x = images(3)
    v, b, E, grid, _ = model.decompose(x)
    assert grid == (H, W)
    for n in range(3):
        A = model.net.get_submodule("features")(x)[n]
        v_slow, b_slow = frozen_decomposition(pool, list(model.net.head.project), A)
        torch.testing.assert_close(v[n].view(H, W, -1), v_slow, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(b[n], b_slow, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(E, model(x), rtol=0, atol=0)


@pytest.mark.parametrize("project", PIECEWISE)
@pytest.mark.parametrize("pool", POOLS)
def test_split_equals_the_full_jacobian(pool, project):
    model = build(pool, project)
    x = images(1)
    v, b, _, _, _ = model.decompose(x)
    A = model.net.get_submodule("features")(x)[0].detach()
    v_slow, b_slow = jacobian_decomposition(head_of(model), A)
    torch.testing.assert_close(v[0].view(H, W, -1), v_slow, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(b[0], b_slow, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("project", PROJECTS)
@pytest.mark.parametrize("pool", POOLS)
def test_fast_path_equals_generic_path_in_any_chunks(pool, project):
    model = build(pool, project)
    x = images(2)
    v, b, _, _, _ = model.decompose(x)
    A = model.net.get_submodule("features")(x).detach()
    one_cell = A.numel() * 8
    for chunk_bytes in (1, 4 * one_cell, 10**9):
        v_slow, b_slow, _ = decomposition.from_head(head_of(model), A, chunk_bytes)
        torch.testing.assert_close(v, v_slow, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(b, b_slow, rtol=1e-10, atol=1e-10)


class AttentionPool(nn.Module):
    """A head of none of the known kinds: one learned query attends to the cells."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(1, 1, C))
        self.value = nn.Linear(C, D)

    def forward(self, A):
        tokens = A.flatten(2).transpose(1, 2)
        query = self.query.expand(len(A), -1, -1)
        value = self.value(tokens)
        return nn.functional.scaled_dot_product_attention(query, tokens, value)[:, 0]


class ConvHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(C, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, D)

    def forward(self, A):
        x = nn.functional.max_pool2d(self.norm(self.conv(A)).relu_(), 2, ceil_mode=True)
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize("traceable", [True, False])
def test_generic_head_equals_the_full_jacobian(traceable):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.head = trunk(), ConvHead()

        def forward(self, x):
            if not traceable and x.sum() > 1e9:  # a symbolic trace stops here
                raise RuntimeError
            return self.head(self.trunk(x))

    net = randomise(Net())
    model = wa.EmbeddingModel.from_module(net, "trunk", wa.Preprocess(size=(12, 20)))
    assert "as a whole" in repr(model)
    x = images(2)
    v, b, _, _, _ = model.decompose(x)
    for n in range(2):
        v_slow, b_slow = jacobian_decomposition(net.head, net.trunk(x)[n].detach())
        torch.testing.assert_close(v[n].view(H, W, -1), v_slow, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(b[n], b_slow, rtol=1e-10, atol=1e-10)


def test_equal_maxima_go_to_one_cell_on_both_paths():
    model = wa.EmbeddingModel(nn.Identity(), "max")
    A = torch.zeros(1, 3, H, W, dtype=torch.float64)
    A[0, 0, 1, 2] = A[0, 0, 2, 4] = 2.0  # a tie
    A[0, 1] = 1.0  # everywhere a tie; channel 2 is zero
    v, b, _, _, _ = model.decompose(A)
    assert v[0, :, 0].nonzero().tolist() == [[1 * W + 2]]
    assert v[0, :, 1].nonzero().tolist() == [[0]]
    assert not v[0, :, 2].any()
    assert not b.any()


def test_gem_gives_what_its_bound_adds_to_the_offset():
    A = torch.randn(2, C, H, W, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    pool = Pool("gem", p=3.0, eps=0.3)  # a bound large enough to be seen
    parts, offset = pool.cells(A)
    assert not parts[(A < 0.3).flatten(2).transpose(1, 2)].any()
    torch.testing.assert_close(parts.sum(1) + offset, pool(A))
    assert (offset > 0.1).any()


def test_attention_as_a_head_holds_its_weights():
    model = wa.EmbeddingModel(*randomise(nn.ModuleList([trunk(), AttentionPool()])))
    x = images(2)
    v, b, _, _, _ = model.decompose(x)
    A = model.net.get_submodule("features")(x)
    head = model.net.head.pool
    tokens = A.flatten(2).transpose(1, 2)
    weights = torch.softmax(tokens @ head.query[0, 0] / C**0.5, dim=1)
    expected = weights[..., None] * (tokens @ head.value.weight.T)
    torch.testing.assert_close(v, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(b, head.value.bias.expand_as(b), rtol=1e-9, atol=1e-9)


def test_gap_is_an_error_with_its_size_and_a_cause():
    total = torch.full((1, 4), 15.0)
    b = torch.zeros(1, 4)
    E = torch.full((1, 4), 20.0)
    with pytest.raises(CompletenessError, match=r"the gap is 0\.25; the dog ate it"):
        decomposition.check(total, b, E, "the dog ate it")
    with pytest.raises(CompletenessError, match="nan"):
        decomposition.check(total * float("nan"), b, E, "")


def test_small_gap_is_put_into_the_bias():
    total = torch.full((1, 4), 15.0)
    E = torch.full((1, 4), 15.0003)
    b = decomposition.check(total, torch.zeros(1, 4), E, "")
    torch.testing.assert_close(total + b, E, rtol=0, atol=0)


def test_a_head_that_changes_between_runs_is_refused():
    class Drifting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.count = 0

        def forward(self, A):
            self.count += 1
            if self.count > 4:
                return A.mean((2, 3)) * self.count
            return A.mean((2, 3))

    model = wa.EmbeddingModel(randomise(trunk()), nn.Identity(), Drifting().eval())
    model._cut.prepare(images(1).shape[1:])
    with pytest.raises(CompletenessError, match="it is not deterministic"):
        model.decompose(images(1))


@pytest.mark.parametrize("project", ["none", "linear", "relu chain"])
def test_contributions_carry_no_graph(project):
    found = build("mean", project).decompose(images(1).requires_grad_())
    assert not any(tensor.requires_grad for tensor in found[:3])
