"""What `from_module` finds in networks as people write them."""

import threading

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import fx, nn

import whyalike as wa
from nets import IMAGE_HW, C, D, H, W, images, randomise, trunk
from oracle import jacobian_decomposition
from whyalike import decomposition

SIZE = wa.Preprocess(size=IMAGE_HW)


class GeM(nn.Module):
    """As re-identification and retrieval code writes it."""

    def __init__(self, p=3.0, eps=1e-6, learned=True):
        super().__init__()
        self.p = nn.Parameter(torch.ones(1) * p) if learned else p
        self.eps = eps

    def forward(self, x):
        return F.avg_pool2d(x.clamp(min=self.eps).pow(self.p), (x.size(-2), x.size(-1))).pow(
            1.0 / self.p
        )


class Net(nn.Module):
    """A trunk, and a head given as a function of the module and the map."""

    def __init__(self, head, **parts):
        super().__init__()
        self.trunk = trunk()
        for name, part in parts.items():
            setattr(self, name, part)
        self.head_function = head

    def forward(self, x):
        return self.head_function(self, self.trunk(x))


HEADS = {
    # name: (the head, its parts, what must be found)
    "module pool, view": (
        lambda m, A: m.fc(m.pool(A).view(A.size(0), -1)),
        {"pool": nn.AdaptiveAvgPool2d(1), "fc": nn.Linear(C, D)}, "mean → "),
    "functional pool, flatten": (
        lambda m, A: m.fc(torch.flatten(F.adaptive_avg_pool2d(A, (1, 1)), 1)),
        {"fc": nn.Linear(C, D)}, "mean → Linear(8→4)"),
    "mean method": (lambda m, A: m.fc(A.mean([2, 3])), {"fc": nn.Linear(C, D)}, "mean → Linear"),
    "mean twice": (lambda m, A: A.mean(3).mean(2), {}, "mean → embedding"),
    "kept dimensions, 1×1 convolution": (
        lambda m, A: m.fc(A.mean((2, 3), keepdim=True)).flatten(1),
        {"fc": nn.Conv2d(C, D, 1)}, "mean → "),
    "max": (lambda m, A: m.bn(F.adaptive_max_pool2d(A, 1).flatten(1)),
            {"bn": nn.BatchNorm1d(C)}, "max → BatchNorm1d"),
    "amax": (lambda m, A: A.amax((-2, -1)), {}, "max → embedding"),
    "learned GeM": (lambda m, A: m.fc(m.pool(A).flatten(1)),
                    {"pool": GeM(2.5), "fc": nn.Linear(C, D)}, "gem("),
    "fixed GeM": (lambda m, A: m.pool(A).flatten(1), {"pool": GeM(4.0, learned=False)}, "gem(p=4)"),
    "flatten": (lambda m, A: m.fc(A.flatten(1)), {"fc": nn.Linear(C * H * W, D)},
                "flatten → Linear(120→4)"),
    "reshape, dropout, chain": (
        lambda m, A: m.fc(A.reshape(A.size(0), C * H * W)),
        {"fc": nn.Sequential(nn.Dropout(), nn.Linear(120, 6), nn.ReLU(True), nn.Linear(6, D))},
        "flatten → Linear(120→6) → ReLU → Linear(6→4)"),
    "relu, then pool": (lambda m, A: F.relu(A, inplace=True).mean((2, 3)), {}, "mean"),
    "BNNeck": (lambda m, A: m.bn(m.pool(A).flatten(1)),
               {"pool": nn.AdaptiveAvgPool2d(1), "bn": nn.BatchNorm1d(C)}, "mean → BatchNorm1d"),
    "unit length": (lambda m, A: F.normalize(A.mean((2, 3))), {}, "mean → normalize"),
    "two branches after pooling": (
        lambda m, A: torch.cat([m.fc(A.mean((2, 3))), A.mean((2, 3))], 1),
        {"fc": nn.Linear(C, D)}, "as a whole"),
    "mean + max": (lambda m, A: A.mean((2, 3)) + A.amax((2, 3)), {}, "as a whole"),
    "convolution first": (lambda m, A: m.conv(A).mean((2, 3)), {"conv": nn.Conv2d(C, D, 3)},
                          "as a whole"),
    "len() of the batch": (lambda m, A: m.fc(A.view(len(A), -1)),
                           {"fc": nn.Linear(C * H * W, D)}, "as a whole"),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
def test_heads_are_recognised_and_right(name):
    head, parts, found = HEADS[name]
    net = randomise(Net(head, **parts))
    for module in net.modules():  # GeM's exponent is not for randomise to choose
        if isinstance(module, GeM) and isinstance(module.p, nn.Parameter):
            module.p.data.fill_(2.5)
    model = wa.EmbeddingModel.from_module(net, "trunk", SIZE)
    assert found in repr(model)
    x = images(2)
    v, b, E, _, _ = model.decompose(x)
    torch.testing.assert_close(E, net(x), rtol=0, atol=0)
    if name == "unit length":
        E_raw = net.trunk(x).mean((2, 3))
        expected = (
            net.trunk(x).flatten(2).transpose(1, 2) / (H * W) / E_raw.norm(dim=1)[:, None, None]
        )
        torch.testing.assert_close(v, expected, rtol=1e-10, atol=1e-10)
        return
    for n in range(2):
        A = net.trunk(x)[n].detach()
        v_slow, b_slow = jacobian_decomposition(lambda z: head(net, z.clone()), A)
        torch.testing.assert_close(v[n].view(H, W, -1), v_slow, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(b[n], b_slow, rtol=1e-9, atol=1e-9)


def test_a_trained_gem_is_followed():
    net = randomise(Net(lambda m, A: m.pool(A).flatten(1), pool=GeM(3.0)))
    net.pool.p.data.fill_(3.0)
    model = wa.EmbeddingModel.from_module(net, "trunk", SIZE)
    net.pool.p.data.fill_(5.0)
    x = images(1)
    v, _, _, _, _ = model.decompose(x)
    v_slow, _ = jacobian_decomposition(lambda A: net.pool(A).flatten(1), net.trunk(x)[0].detach())
    torch.testing.assert_close(v[0].view(H, W, -1), v_slow, rtol=1e-9, atol=1e-9)


TORCHVISION = {
    "resnet18": ("layer4", "512×2×3 map of ResNet.layer4 → mean → Linear(512→1000)"),
    "vgg11_bn": ("features", "flatten → Linear(25088→4096) → ReLU → "),
    "densenet121": ("features", "relu → mean → Linear(1024→1000)"),
    "mobilenet_v2": ("features", "mean → Linear(1280→1000)"),
    "mobilenet_v3_small": ("features", "mean → Linear(576→1024) → Hardswish → Linear(1024→1000)"),
    "efficientnet_b0": ("features", "mean → Linear(1280→1000)"),
    "regnet_y_400mf": ("trunk_output", "mean → Linear(440→1000)"),
    "shufflenet_v2_x0_5": ("conv5", "mean → Linear(1024→1000)"),
    "googlenet": ("inception5b", "mean → Linear(1024→1000)"),
    "squeezenet1_0": ("features", "as a whole"),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_networks_of_torchvision(name):
    layer, found = TORCHVISION[name]
    torch.manual_seed(0)
    extra = {"init_weights": False} if name == "googlenet" else {}
    net = getattr(torchvision.models, name)(weights=None, **extra).eval()
    hw = (224, 224) if name.startswith("vgg") else (64, 96)
    model = wa.EmbeddingModel.from_module(net, layer, wa.Preprocess(size=hw))
    assert found in repr(model)
    x = torch.randn(2, 3, *hw, generator=torch.Generator().manual_seed(0))
    v, b, _, _, taylor = model.decompose(x)
    assert taylor == ()
    if name.startswith("vgg"):  # too large for the slow way; flatten is tested above
        return
    # The generic path knows nothing of poolings.
    slow = decomposition.from_head(fx.GraphModule(net, model._cut._graph), model.inspect(x)[0])
    torch.testing.assert_close(v, slow.v, rtol=1e-3, atol=1e-4 * float(v.abs().max()))
    torch.testing.assert_close(b, slow.b, rtol=1e-3, atol=1e-4 * float(v.abs().max()))


def test_the_last_map_is_found_by_itself():
    net = torchvision.models.resnet18(weights=None).eval()
    assert wa.EmbeddingModel.from_module(net, preprocess=wa.Preprocess(size=64)).layer == "layer4"


NEAR = {
    "clamped mean": lambda m, A: F.relu6(A).mean((2, 3)),
    "clamped max": lambda m, A: A.clamp(-8, 8).amax((2, 3)),
    "GeM of another bound": lambda m, A: GeM(3.0, eps=1e-3, learned=False)(A).flatten(1),
    "leaky": lambda m, A: F.leaky_relu(A).mean((2, 3)),
}


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
@pytest.mark.parametrize("name", NEAR)
def test_what_is_nearly_a_known_pooling_is_not_taken_for_it(name, scale):
    net = randomise(Net(NEAR[name]))
    net.trunk[0].weight.data *= scale
    net.trunk[0].bias.data *= scale
    model = wa.EmbeddingModel.from_module(net, "trunk.0", SIZE)
    x = images(2)
    v, b, _, _, taylor = model.decompose(x)
    A = net.trunk[0](x).detach()
    head = lambda z: NEAR[name](net, z.relu())  # noqa: E731
    slow = decomposition.from_head(head, A)
    torch.testing.assert_close(v, slow.v, rtol=1e-9, atol=1e-12 * scale)
    torch.testing.assert_close(b, slow.b, rtol=1e-9, atol=1e-9 * scale)
    assert not {"mul", "exp"} & set(taylor)


def test_a_head_that_is_changed_later_is_found_again():
    net = randomise(Net(lambda m, A: m.fc(A.mean((2, 3))), fc=nn.Linear(C, D)))
    model = wa.EmbeddingModel.from_module(net, "trunk", SIZE)
    x = images(2)
    model.decompose(x)
    net.fc = randomise(nn.Linear(C, D + 3), seed=9)
    v, _, E, _, _ = model.decompose(x)
    A = net.trunk(x)
    torch.testing.assert_close(v, A.flatten(2).mT / (H * W) @ net.fc.weight.T)
    assert E.shape == (2, D + 3)

    gem = randomise(Net(lambda m, A: m.pool(A).flatten(1), pool=GeM(3.0)))
    model = wa.EmbeddingModel.from_module(gem, "trunk", SIZE)
    model.decompose(x)
    state = {**gem.state_dict(), "pool.p": torch.tensor([4.0], dtype=torch.float64)}
    gem.load_state_dict(state, assign=True)
    v, _, _, _, _ = model.decompose(x)
    A = gem.trunk(x)[0].detach()
    v_slow, _ = jacobian_decomposition(lambda z: gem.pool(z).flatten(1), A)
    torch.testing.assert_close(v[0].view(H, W, -1), v_slow, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("uses_both", [False, True])
@pytest.mark.parametrize("n", [1, 3])
def test_of_a_layer_that_gives_several_the_first_is_meant(uses_both, n):
    """As blocks of transformers give a tuple; `a[0]` of a map would be its first image."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = trunk()

        def forward(self, x):
            A = self.trunk(x)
            return A, A.mean((2, 3))

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block()

        def forward(self, x):
            A, pooled = self.block(x)
            return A.amax((2, 3)) + 0.5 * pooled if uses_both else A.amax((2, 3))

    net = randomise(Whole())
    model = wa.EmbeddingModel.from_module(net, "block", SIZE)
    # What looks at the second as well is run again, which holds that at its value, as a bias.
    assert (model._cut._graph is None) == uses_both
    x = images(n)
    v, b, E, _, taylor = model.decompose(x)
    A = net.block(x)[0].flatten(2).mT
    expected = torch.zeros_like(A).scatter(1, A.argmax(1, keepdim=True), A.amax(1, keepdim=True))
    torch.testing.assert_close(v, expected)
    torch.testing.assert_close(v.sum(1) + b, E)
    torch.testing.assert_close(E, net(x))
    assert not taylor


def test_networks_that_other_threads_run_are_left_alone_while_a_head_is_looked_for():
    elsewhere = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU()).eval()
    x = torch.ones(1, 3, *IMAGE_HW)
    expected = elsewhere(x)
    met: list[object] = []

    def run() -> None:
        try:
            met.append(elsewhere(x))
            met.append(net.fc(torch.ones(1, C)))  # of the network that is being traced
        except Exception as error:
            met.append(error)

    def head(m: Net, A: torch.Tensor) -> torch.Tensor:
        if isinstance(A, fx.Proxy):
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()
        return m.fc(A.mean((2, 3)))

    net = Net(head, fc=nn.Linear(C, D)).eval()
    model = wa.EmbeddingModel.from_module(net, "trunk", SIZE)
    assert "mean → Linear" in str(model)
    assert met, "the head was not traced by the way that this is about"
    assert len(met) % 2 == 0, met
    for conv, linear in zip(met[::2], met[1::2], strict=True):
        assert torch.equal(conv, expected)
        assert torch.equal(linear, net.fc(torch.ones(1, C)))
