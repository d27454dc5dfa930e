"""What pixels add to a grey image's embedding: chords held to closed forms and to loops."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import whyalike as wa
from nets import images, randomise, seeded
from whyalike.change import GROWTH, STEPS, Change, pixel_cells
from whyalike.errors import CompletenessError, ModelError
from whyalike.layout import Layout
from whyalike.surrogates.secants import Secants

SIZE = wa.Preprocess(size=(12, 20))
HW = (12, 20)


class Gated(nn.Module):
    """A gate made of the whole image, times the image: squeeze and excite."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.inner, self.in_place = nn.Conv2d(6, 6, 1), in_place

    def forward(self, x: Tensor) -> Tensor:
        gate = self.inner(x.mean((2, 3), keepdim=True)).sigmoid()
        if not self.in_place:
            return x * gate
        x = x + 0
        x *= gate
        return x


class Attention(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.qkv = nn.Linear(6, 18)
        self.whole = nn.MultiheadAttention(6, 2, batch_first=kind == "module, batch first")

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).mT
        if self.kind == "module, batch first":
            return self.whole(tokens, tokens, tokens, need_weights=False)[0]
        if self.kind == "module":
            rows = tokens.transpose(0, 1)
            mask = torch.ones(len(rows), len(rows), dtype=torch.bool).triu(1)
            return self.whole(rows, rows, rows, attn_mask=mask)[0].transpose(0, 1)
        q, k, v = self.qkv(tokens).unflatten(-1, (3, 2, 3)).permute(2, 0, 3, 1, 4)
        if self.kind == "by hand":
            mixed = (q @ k.mT * 3**-0.5).softmax(-1) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.kind == "causal")
        return mixed.transpose(1, 2).flatten(2)


def call(func):
    class Call(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return func(x)

    return Call()


CURVED = {
    "relu": nn.ReLU(),
    "relu in place": nn.ReLU(inplace=True),
    "leaky": nn.LeakyReLU(0.2, inplace=True),
    "prelu": nn.PReLU(6),
    "relu6": nn.ReLU6(),
    "gelu": nn.GELU(),
    "silu in place": nn.SiLU(inplace=True),
    "hard-swish": nn.Hardswish(),
    "sigmoid": nn.Sigmoid(),
    "tanh, a method": call(lambda x: x.tanh()),
    "clamp": call(lambda x: x.clamp(-0.3, 0.4)),
    "an even power": call(lambda x: x**2 + x.square() - (x * x) / 3),
    "generalised mean": call(lambda x: x.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)),
    "gate": Gated(False),
    "gate in place": Gated(True),
    "glu": call(lambda x: F.glu(x, 1)),
    "softmax": call(lambda x: x.softmax(1)),
    "attention": Attention("function"),
    "causal": Attention("causal"),
    "by hand": Attention("by hand"),
    "attention, a module": Attention("module"),
    "attention, batch first": Attention("module, batch first"),
    "layer norm": nn.Sequential(call(lambda x: x.movedim(1, -1)), nn.LayerNorm(6)),
    "group norm": nn.GroupNorm(2, 6),
    "rms norm": nn.Sequential(call(lambda x: x.movedim(1, -1)), nn.RMSNorm(6)),
    "unit length": call(lambda x: F.normalize(x, dim=1)),
    "response norm": call(
        lambda x: x * (g := x.norm(p=2, dim=(2, 3), keepdim=True)) / (g.mean(1, True) + 1e-6)
    ),
    "quotient": call(lambda x: x / (1 + x.abs()) + 1 / (2 + x.square())),
    "max pooling": nn.MaxPool2d(3, 2, 1),
    "max pooling, to the end": nn.MaxPool2d((2, 3), (2, 3), ceil_mode=True),
    "max pooling, dilated": nn.MaxPool2d(2, 1, dilation=2),
    "largest": nn.AdaptiveMaxPool2d(1),
    "largest of odd ones": call(lambda x: x.amax((2, 3))),
    "the larger": call(lambda x: torch.maximum(x[:, :3], x[:, 3:])),
    "branches": call(lambda x: torch.cat([x.relu(), (-x).exp()], 1).flatten(1)),
}


@pytest.mark.parametrize("name", CURVED)
def test_a_chord_is_the_whole_change(name):
    """J (X − X') = f(X) − f(X'), for the derivative under the mode; values are f's own."""
    first = nn.Conv2d(3, 6, 3, stride=2, padding=1)
    net = randomise(nn.Sequential(first, copy.deepcopy(CURVED[name])))
    x, other = images(2, hw=(9, 11)), images(2, seed=7, hw=(9, 11))
    other[1, :, :5] = x[1, :, :5]  # also where nothing changes
    expected = net(x)
    with torch.no_grad(), Secants(other) as there:
        after = net(other)
    assert torch.allclose(after, net(other), atol=1e-12)
    leaf = x.clone().requires_grad_()
    with Secants(leaf, there.inputs) as here:
        y = net(leaf)
    assert torch.allclose(y, expected, atol=1e-12)
    assert not here.first_order
    u = torch.randn(y.shape, generator=seeded(3), dtype=y.dtype)
    (J,) = torch.autograd.grad(y, leaf, u)
    change = ((y - after) * u).flatten(1).sum(1)
    assert torch.allclose((J * (x - other)).flatten(1).sum(1), change, atol=1e-11)


class Small(nn.Module):
    """Convolution, ReLU, mean, linear: to be written out as matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.conv(x).relu().mean((2, 3)))


def chords_by_hand(net: Small, x: Tensor, cells: Layout) -> tuple[Tensor, list[list[int]]]:
    """V of every cell, and the cells of each step: loops over full Jacobians."""
    H, W = x.shape[1:]
    h, w = cells.grid_hw

    def only(some: list[int]) -> Tensor:
        seen = torch.zeros(H, W, dtype=x.dtype)
        for row in range(H):
            for column in range(W):
                if (row * h // H) * w + column * w // W in some:
                    seen[row, column] = 1
        return seen

    left, steps = [*range(h * w)], []
    E = net(x[None])[0]
    for k in range(STEPS - 1):
        image = (x * only(left))[None]
        J = torch.autograd.functional.jacobian(lambda z: net(z)[0] @ E, image)[0]
        carried = {cell: (J * image[0] * only([cell])).sum().item() for cell in left}
        gone = h * w - len(left)
        count = round(h * w / GROWTH ** (STEPS - 1 - k)) - gone
        steps.append(sorted(left, key=lambda cell: -carried[cell])[:count])
        left = [cell for cell in left if cell not in steps[-1]]
    steps.append(left)
    v = torch.zeros(h * w, len(E), dtype=x.dtype)
    left = [*range(h * w)]
    matrix = torch.autograd.functional.jacobian(lambda z: net.conv(z).flatten(), x[None])
    matrix = matrix.flatten(1)
    for some in steps:
        before = x * only(left)
        left = [cell for cell in left if cell not in some]
        after = x * only(left)
        a, b = (net.conv(image[None]).flatten() for image in (before, after))
        same = a == b
        slopes = torch.where(
            same, (a > 0).double(), (a.relu() - b.relu()) / (a - b + same.double())
        )
        pooled = (slopes[:, None] * matrix).unflatten(0, (5, -1)).mean(1)
        J = net.out.weight @ pooled
        for cell in some:
            v[cell] = J @ (before * only([cell])).flatten()
    return v, steps


def test_vectors_are_those_of_the_path_written_out():
    net = randomise(Small())
    x, layout = images(1)[0], Layout("channels first", (4, 5))
    expected, steps = chords_by_hand(net, x, layout)
    change = Change(lambda dtype: net, x[None], layout)
    assert [len(step) for step in steps] == [1, 4, 15]
    assert torch.allclose(change.values()[0], expected, atol=1e-10)
    u = torch.randn(1, 4, generator=seeded(), dtype=torch.float64)
    assert torch.allclose(change.pull(u)[1][0], expected @ u[0], atol=1e-10)


def test_of_a_linear_network_each_cell_has_what_it_is():
    net = randomise(nn.Sequential(nn.Conv2d(3, 6, 4, stride=4), nn.Flatten(), nn.Linear(90, 4)))
    model = wa.EmbeddingModel.from_module(net, "0", SIZE).change(cells=20)
    x = model.explain(images(1)[0])
    assert x.values.shape == (12, 20, 4)
    weight = torch.autograd.functional.jacobian(lambda z: net(z)[0], images(1))[:, 0]
    assert torch.allclose(x.values, torch.einsum("dchw,chw->hwd", weight, images(1)[0]), atol=1e-10)
    assert torch.allclose(x.bias, net(torch.zeros(1, 3, *HW, dtype=torch.float64))[0], atol=1e-12)


def test_what_is_saturated_counts_where_its_gradient_says_nothing():
    net = nn.Sequential(nn.Conv2d(3, 2, 4, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                        nn.ReLU6()).double().eval()  # fmt: skip
    nn.init.constant_(net[0].weight, 1.0)
    nn.init.zeros_(net[0].bias)
    bright = torch.ones(1, 3, *HW, dtype=torch.float64)
    assert not torch.autograd.functional.jacobian(lambda z: net(z).sum(), bright).any()
    x = wa.EmbeddingModel.from_module(net, "0", SIZE).change(cells=5).explain(bright[0])
    assert torch.allclose(x.total(), torch.full((2,), 6.0, dtype=torch.float64), atol=1e-9)
    assert (x.map(torch.ones(2)) >= -1e-12).all()


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "test_vit"])
def test_networks_are_complete_in_float32(name):
    torch.manual_seed(0)
    size = {"img_size": 48} if "vit" in name else {}
    net = timm.create_model(name, num_classes=16, **size).eval().requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    layer = "patch_embed.proj" if "vit" in name else None
    model = wa.EmbeddingModel.from_module(net, layer, wa.Preprocess(size=48)).change(cells=8)
    x = model.explain(torch.randn(3, 48, 48, generator=seeded()))
    with torch.no_grad():
        grey = net(torch.zeros(1, 3, 48, 48))[0]
    assert not x.taylor
    assert (x.bias - grey).norm() < 1e-4 * x.embedding.norm()
    upper, lower = x.within_each([(0, 0, 48, 20), (0, 20, 48, 48)])
    assert (upper + lower + grey - x.embedding).norm() < 1e-4 * x.embedding.norm()
    points = [(3, 7), (24, 24), (40, 11)]
    assert torch.allclose(x.at_each(points), torch.stack([x.at(xy) for xy in points]), atol=1e-6)
    carried = x.map(x.embedding)
    assert carried.shape == (8, 8)
    assert carried.sum().item() == pytest.approx(((upper + lower) @ x.embedding).item(), rel=1e-4)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())


def test_a_pair_adds_up():
    model = wa.EmbeddingModel.from_module(randomise(Small()), "conv", SIZE).change(cells=10)
    pair = wa.explain_pair(model, *images(2))
    grey = [c.bias / c.embedding.norm() for c in (pair.query, pair.reference)]
    assert pair.terms.bias_bias == pytest.approx((grey[0] @ grey[1]).item(), abs=1e-12)
    halves = [pair.region_map(query_xyxy=box) for box in ((0, 0, 20, 5), (0, 5, 20, 12))]
    assert torch.allclose(sum(halves), pair.overall_map("reference"), atol=1e-12)
    assert pair.overall_map("query").sum().item() == pytest.approx(pair.terms.pairs, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("resnet50", "efficientnet_b0", "convnext_tiny", "convnextv2_atto", "densenet121"),
        *("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "mobilenetv3_small_050"),
    ],
)
def test_more_networks_are_complete_in_float32(name):
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=16).eval().requires_grad_(False)
    layer = "patch_embed" if "vit" in name else None  # which change() has no use for
    plain = wa.EmbeddingModel.from_module(net, layer, wa.Preprocess(size=224))
    model = plain.change(cells=14)
    x = model.explain(torch.randn(3, 224, 224, generator=seeded()))
    assert not x.taylor
    assert (x.within((0, 0, 224, 224)) + x.bias - x.embedding).norm() < 1e-4 * x.embedding.norm()


def test_an_operation_without_a_chord_is_named_and_its_rest_is_in_the_bias():
    class Sorting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 4, stride=4)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).flatten(2).sort(-1).values[..., -4:].mean(-1)

    net = randomise(Sorting())
    x = wa.EmbeddingModel.from_module(net, "conv", SIZE).change(cells=10).explain(images(1)[0])
    assert [*x.taylor] == ["sort"]
    grey = net(torch.zeros(1, 3, *HW, dtype=torch.float64))[0]
    rest = x.embedding - x.values.sum((0, 1)) - grey
    assert x.taylor["sort"] == pytest.approx((rest.norm() / x.embedding.norm()).item(), rel=1e-6)
    assert torch.allclose(x.bias, grey + rest, atol=1e-10)


def test_a_later_image_that_takes_another_branch_is_told():
    class Branches(nn.Module):
        """What it does with an image depends on something else."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 4, stride=4)
            self.sorts = False

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x).flatten(2)
            return (y.sort(-1).values[..., -4:] if self.sorts else y).mean(-1)

    net = randomise(Branches())
    model = wa.EmbeddingModel.from_module(net, "conv", SIZE).change(cells=10)
    first, later = images(2)
    assert not model.explain(first).taylor
    net.sorts = True
    x = model.explain(later)
    for ask in (lambda: x.map(x.embedding), lambda: x.at((3, 7)), lambda: x.values):
        with pytest.raises(
            CompletenessError, match=r"\(sort\); explain it with a model of its own"
        ):
            ask()
    assert [*model.cut().explain(later).taylor] == ["sort"]


def test_what_is_wrong_is_told():
    class Hides(nn.Module):
        """What the mode cannot follow: values that leave torch."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 4, stride=4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x).relu().mean((2, 3))
            return y * torch.from_numpy(y.detach().numpy())

    model = wa.EmbeddingModel.from_module(randomise(Hides()), "conv", SIZE)
    with pytest.raises(CompletenessError, match="other way than through"):
        model.change().explain(images(1)[0])

    class Moody(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 4, stride=4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            y = y.relu() if bool((x[0] == 0).any()) else y
            return y.mean((2, 3)).tanh()

    model = wa.EmbeddingModel.from_module(randomise(Moody()), "conv", SIZE)
    with pytest.raises(ModelError, match="parts are hidden"):
        model.change().explain(images(1)[0])
    with pytest.raises(ValueError, match="2 or more; came 1"):
        model.change(cells=1)


@pytest.mark.parametrize("ask", ["pull", "push", "values"])
def test_where_single_precision_loses_the_sum_double_takes_its_place(ask):
    """What is lost is made large here: in single precision a part of it leaves torch."""
    net = nn.Sequential(nn.Conv2d(3, 5, 4, stride=4), nn.Tanh())
    randomise(net)

    def run_in(dtype: torch.dtype):
        def run(x: Tensor) -> Tensor:
            y = net.to(dtype)(x).mean((2, 3))
            return y if dtype == torch.float64 else y + torch.from_numpy(x.detach().numpy()).mean()

        return run

    x, layout = images(1).float(), Layout("channels first", (3, 5))
    single = Change(run_in, x, layout)
    double = Change(run_in, x.double(), layout, single._hidden)
    u, weights = torch.rand(1, 5, generator=seeded(1)), torch.rand(4, 1, 15, generator=seeded(2))
    given = {"pull": (u,), "push": (weights,), "values": ()}[ask]
    found, true = getattr(single, ask)(*given), getattr(double, ask)(*(t.double() for t in given))
    found, true = (found, true) if ask == "values" else (found[1], true[1])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), true, rtol=1e-5, atol=1e-6)


def test_cells_are_of_whole_pixels():
    assert pixel_cells((224, 224), 64).grid_hw == (56, 56)
    assert pixel_cells((64, 64), 64).grid_hw == (64, 64)
    assert pixel_cells((12, 20), 5).grid_hw == (3, 5)
    assert pixel_cells((30, 100), 40).grid_hw == (10, 34)


def test_the_model_says_what_it_is_and_goes_back():
    model = wa.EmbeddingModel.from_module(randomise(Small()), "conv", SIZE)
    change = model.change(cells=10)
    assert "6×10 pixels of Small → change from grey, at most 10 cells a side" in repr(change)
    assert change.layer == "conv"
    assert repr(change.cut(surrogate="gates")) == repr(model)
    assert change.cut().surrogate.cells == 10
