"""What operations leave over that are only expanded to first order, against closed forms."""

import copy
import pickle

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

import whyalike as wa
from nets import C, H, W, images, randomise, seeded, trunk
from oracle import remainders_by_patching, remainders_of_a_chain
from whyalike import decomposition
from whyalike.contributions import Remainders
from whyalike.surrogates import Surrogate

SIZE = wa.Preprocess(size=(12, 20))
TAYLOR = Surrogate("taylor")


def maps(n: int = 2) -> Tensor:
    return torch.randn(n, C, H, W, generator=seeded(4), dtype=torch.float64)


def pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def in_part(A: Tensor) -> Tensor:
    A = A.clone()
    A[:, :3] = A[:, :3].exp()
    return pooled(A)


def over_cells(A: Tensor) -> tuple[Tensor, Tensor]:
    """A softmax over the cells, and what it leaves over: s − (diag(s) − s sᵀ) x."""
    x = A.sum(1, keepdim=True).flatten(2)
    s = x.softmax(2)
    return s, s * (1 - x + (s * x).sum(2, keepdim=True))


def of_product(A: Tensor) -> dict[str, Tensor]:
    s, left = over_cells(A)
    values = A.flatten(2)
    return {"softmax": (left * values).sum(2), "mul": -(s * values).sum(2)}


# name: (a head, what its operations leave over, the surrogate)
CLOSED = {
    "exp": (lambda A: pooled(A.exp()), lambda A: {"exp": pooled(A.exp() * (1 - A))}, None),
    "exp in place": (
        lambda A: pooled(A.mul(2).exp_()),
        lambda A: {"exp": pooled((2 * A).exp() * (1 - 2 * A))}, None),
    "exp of a part": (
        in_part, lambda A: {"exp": pooled(A.exp() * (1 - A)) * (torch.arange(C) < 3)}, None),
    "exp twice": (
        lambda A: pooled(A.exp()) + pooled((2 * A).exp()),
        lambda A: {"exp": pooled(A.exp() * (1 - A) + (2 * A).exp() * (1 - 2 * A))}, None),
    "exp, then a gate": (
        lambda A: pooled(F.gelu(A.exp())),
        lambda A: {"exp": pooled(F.gelu(A.exp()) * (1 - A))}, None),
    "square": (lambda A: pooled(A.square()), lambda A: {"square": -pooled(A**2)}, None),
    "its own factor": (lambda A: pooled(A * A), lambda A: {"mul": -pooled(A**2)}, None),
    "its own factor, by name": (
        lambda A: pooled(torch.mul(A, other=A)), lambda A: {"mul": -pooled(A**2)}, None),
    "two branches": (
        lambda A: pooled(A * A.flip(1)), lambda A: {"mul": -pooled(A * A.flip(1))}, None),
    "one over": (lambda A: 1 / pooled(A), lambda A: {"rdiv": 2 / pooled(A)}, None),
    "over one another": (
        lambda A: pooled(A) / pooled(A).flip(1),
        lambda A: {"div": pooled(A) / pooled(A).flip(1)}, TAYLOR),
    "over its square": (
        lambda A: pooled(A) / pooled(A.mul(2)).pow(2),
        lambda A: dict.fromkeys(("div", "pow"), pooled(A) / pooled(2 * A) ** 2),
        TAYLOR),
    "softmax": (
        lambda A: A.sum(1).flatten(1).softmax(1),
        lambda A: {"softmax": over_cells(A)[1][:, 0]}, None),
    "softmax times a value": (
        lambda A: (A.sum(1, keepdim=True).flatten(2).softmax(2) * A.flatten(2)).sum(2), of_product,
        TAYLOR),
    "layer norm": (
        lambda A: F.layer_norm(pooled(A), (C,), eps=0.0),
        lambda A: {"layer_norm": F.layer_norm(pooled(A), (C,), eps=0.0)}, TAYLOR),
    "silu in place": (
        lambda A: pooled(F.silu(A.clone(), inplace=True)),
        lambda A: {"silu": pooled(-(A**2) * A.sigmoid() * (1 - A.sigmoid()))}, TAYLOR),
    "several outputs": (
        lambda A: sum(torch.var_mean(A, (2, 3))), lambda A: {"var_mean": -A.var((2, 3))}, None),
    "nothing": (
        lambda A: A.flatten(2).cummax(2).values.sum(2),
        lambda A: {"cummax": torch.zeros(len(A), C, dtype=A.dtype)}, None),
    "through frequencies": (
        lambda A: pooled(torch.fft.irfft2(torch.fft.rfft2(A) * 1j, s=(H, W)).exp()),
        lambda A: {"exp": pooled((x := torch.fft.irfft2(torch.fft.rfft2(A) * 1j, s=(H, W))).exp()
                                 * (1 - x))}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", CLOSED)
def test_what_is_left_over_in_closed_form(name):
    head, closed, surrogate = CLOSED[name]
    A = maps()
    found = decomposition.from_head(head, A, surrogate=surrogate)
    expected = closed(A)
    assert found.taylor.keys() == expected.keys()
    for operation, left in expected.items():
        assert_close(found.taylor[operation], left, rtol=1e-9, atol=1e-9)
    if name != "exp of a part":  # all that b holds
        assert_close(found.b, sum(expected.values()), rtol=1e-9, atol=1e-9)


STEPS = {
    "exp": lambda x, M, N: (0.5 * x).exp(),
    "sin": lambda x, M, N: x.sin(),
    "square": lambda x, M, N: x.square(),
    "softmax": lambda x, M, N: x.softmax(-1),
    "mul": lambda x, M, N: (x @ M) * (x @ N),
    "layer_norm": lambda x, M, N: F.layer_norm(x, x.shape[-1:]),
    "gelu": lambda x, M, N: F.gelu(x),
    None: lambda x, M, N: x @ M + N[0],
}


@pytest.mark.parametrize("biases", ["residual", "located"])
@pytest.mark.parametrize("seed", range(12))
def test_chains_of_anything_equal_the_product_of_their_jacobians(seed, biases):
    generator = seeded(seed)
    chain = []
    for k in torch.randint(len(STEPS), (6,), generator=generator).tolist():
        M, N = torch.randn(2, C, C, generator=generator, dtype=torch.float64) / C**0.5
        name = list(STEPS)[k]
        chain.append((name, lambda x, f=STEPS[name], M=M, N=N: f(x, M, N)))
    A = maps()

    def head(A: Tensor) -> Tensor:
        x = pooled(A)
        for _, step in chain:
            x = step(x)
        return x

    found = decomposition.from_head(head, A, surrogate=Surrogate("taylor", biases=biases))
    for n in range(len(A)):
        expected, constants = remainders_of_a_chain(chain, pooled(A)[n])
        assert found.taylor.keys() == expected.keys()
        for name, left in expected.items():
            assert_close(found.taylor[name][n], left, rtol=1e-8, atol=1e-10)
        assert_close(found.b[n], sum(expected.values()) + constants, rtol=1e-8, atol=1e-10)


class Exp(nn.Module):
    def __init__(self, in_place: bool = False) -> None:
        super().__init__()
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        return x.exp_() if self.in_place else x.exp()


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("pool", ["mean", "max", "gem"])
def test_a_head_in_closed_form_tells_the_same(pool, in_place):
    project = nn.Sequential(nn.Linear(C, 5), Exp(in_place), nn.Linear(5, 4))
    net = randomise(nn.ModuleList([trunk(), project]))
    model = wa.EmbeddingModel(net[0], pool, net[1])
    x = images(2)
    found = model._cut.decompose(x)
    assert found.v is not None
    A, _, split = model.inspect(x)
    z = project[0](split.pool(A))
    expected = (z.exp() * (1 - z)) @ project[2].weight.T
    for n in range(2):
        assert_close(found.taylor[n], {"exp": expected[n].detach()}, rtol=1e-9, atol=1e-9)
    generic = decomposition.from_head(model.net.get_submodule("head"), A.detach())
    assert_close(generic.taylor["exp"], expected.detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("gamma", [0.0, 0.25])
def test_behind_it_gamma_shares_the_sums(gamma):
    """What the operation leaves over, and biases: with those at their places, it is all of b."""
    net = randomise(nn.Sequential(nn.Conv2d(C, 6, 3, padding=1), Exp(), nn.Conv2d(6, 5, 1)))
    surrogate = Surrogate("gamma", gamma, "located")
    found = decomposition.from_head(lambda A: pooled(net(A)), maps(), surrogate=surrogate)
    assert [*found.taylor] == ["exp"]
    assert_close(found.taylor["exp"], found.b, rtol=1e-9, atol=1e-9)
    assert found.b.norm() > 0.1


def vit(**options) -> nn.Module:
    torch.manual_seed(0)
    net = timm.models.VisionTransformer(
        img_size=(16, 24), patch_size=8, embed_dim=8, depth=2, num_heads=2, num_classes=0, **options
    )
    return randomise(net)


def test_every_operation_of_a_transformer_by_its_full_jacobian():
    net = vit()
    x = images(1, hw=(16, 24))
    model = wa.EmbeddingModel.from_module(
        net, "blocks.0", wa.Preprocess(size=(16, 24)), surrogate="taylor"
    )
    found = model._cut.decompose(x)

    def head(A: Tensor) -> Tensor:
        return net.forward_head(net.norm(net.blocks[1](A)))

    with torch.no_grad():
        A = net.blocks[0](net.norm_pre(net._pos_embed(net.patch_embed(x))))
    inputs = {"layer_norm": 1, "gelu": 1, "scaled_dot_product_attention": 3}
    expected = remainders_by_patching(head, A, inputs)
    for name, left in expected.items():
        assert_close(found.taylor[0][name], left, rtol=1e-8, atol=1e-8)
    constants = 0
    for layer in (m for m in net.blocks[1].modules() if isinstance(m, nn.Linear)):

        def biased(bias: Tensor, layer: nn.Module = layer) -> Tensor:
            hook = layer.register_forward_hook(
                lambda layer, given, _: F.linear(given[0], layer.weight, bias)
            )
            E = head(A)[0]
            hook.remove()
            return E

        bias = layer.bias.detach()
        constants = constants + torch.autograd.functional.jacobian(biased, bias) @ bias
    assert_close(found.b[0], sum(found.taylor[0].values()) + constants, rtol=1e-8, atol=1e-8)
    located = model.cut(biases="located")._cut.decompose(x)
    assert_close(located.b[0], sum(located.taylor[0].values()), rtol=1e-8, atol=1e-8)
    assert_close(located.taylor[0], found.taylor[0], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("last", "runs"), [(F.gelu, 1), (torch.exp, 2)])
def test_a_head_without_such_operations_runs_once(last, runs):
    ran = []

    def head(A: Tensor) -> Tensor:
        ran.append(A)
        return last(pooled(A))

    linear = decomposition.LinearHead(head, maps())
    linear.sum()
    assert linear.remainders().keys() == ({"exp"} if last is torch.exp else set())
    assert len(ran) == runs


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = trunk()

    def forward(self, x: Tensor) -> Tensor:
        A = self.trunk(x)
        return pooled(A.exp()) + pooled(A * A)


def test_sizes_reach_the_user(tmp_path):
    net = randomise(Net())
    model = wa.EmbeddingModel.from_module(net, "trunk", SIZE)
    x = images(2)
    pair = wa.explain_pair(model, *x)
    A = net.trunk(x).detach()
    left = {"exp": pooled(A.exp() * (1 - A)), "mul": -pooled(A * A)}
    lengths = net(x).norm(dim=1)
    sizes = {name: r.norm(dim=1) / lengths for name, r in left.items()}
    for row, c in enumerate((pair.query, pair.reference)):
        assert c.taylor == pytest.approx({name: s[row].item() for name, s in sizes.items()})
    assert pair.taylor == pytest.approx({name: s.max().item() for name, s in sizes.items()})
    assert [*pair.taylor] == sorted(pair.taylor, key=lambda name: -pair.taylor[name])
    words = f"first order only: {pair.taylor}"
    assert pair.model.endswith(words)
    assert f"first order only: {pair.query.taylor}" in repr(pair.query)
    # alone as in a batch, and on whatever grid
    assert model.explain(x[1]).taylor == pytest.approx(dict(pair.reference.taylor))
    assert pair.query.on_grid((1, 2)).taylor == pair.query.taylor
    assert model.decompose(x)[-1] == ("exp", "mul")
    pair.save(tmp_path / "pair.html", tmp_path / "pair.npz")
    assert words in (tmp_path / "pair.html").read_text(encoding="utf-8")
    with np.load(tmp_path / "pair.npz") as saved:
        names, sizes = saved["query_taylor_names"].tolist(), saved["query_taylor_sizes"].tolist()
    assert dict(zip(names, sizes, strict=True)) == pair.query.taylor


def test_an_image_names_what_it_went_through_itself():
    class Either(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = trunk()

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.one(A[None]) for A in self.trunk(x)])

        def one(self, A: Tensor) -> Tensor:
            return pooled(A.exp()) if A.detach().mean() > self.between else pooled(A.sin())

    net = randomise(Either())
    x = images(2)
    means = net.trunk(x).detach().mean((1, 2, 3))
    net.between, high = means.mean(), int(means.argmax())
    both = wa.EmbeddingModel.from_module(net, "trunk", SIZE).explain(list(x))
    assert [*both[high].taylor] == ["exp"]
    assert [*both[1 - high].taylor] == ["sin"]


def test_sizes_are_a_mapping_that_stays_as_it_is():
    given = {"exp": 0.002, "softmax": 0.031, "sin": 0.0, "cos": 1e-5}
    sizes = Remainders(given)
    assert [*sizes] == ["softmax", "exp", "cos", "sin"]
    assert str(sizes) == "softmax (3.1% of the embedding), exp (0.2%), cos (under 0.1%), sin (0.0%)"
    given["exp"] = 1.0
    assert sizes["exp"] == 0.002
    with pytest.raises(TypeError, match="assignment"):
        sizes["exp"] = 1.0
    assert pickle.loads(pickle.dumps(sizes)) == copy.deepcopy(sizes) == sizes
    assert str(Remainders()) == ""
    assert not Remainders()
