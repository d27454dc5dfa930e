"""EmbeddingModel: what it refuses, what it leaves alone, and batches, sizes, types."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image
from torch import nn

import whyalike as wa
from nets import IMAGE_HW, C, D, H, W, images, randomise, trunk
from whyalike.errors import ImageError, LayerError, ModelError, OutputError, TrainingModeError

SIZE = wa.Preprocess(size=IMAGE_HW)


def small(**kwargs) -> wa.EmbeddingModel:
    net = randomise(nn.ModuleList([trunk(), nn.Linear(C, D)]))
    return wa.EmbeddingModel(net[0], "mean", net[1], **kwargs)


class Bad(nn.Module):
    """A trunk, and an embedding by a function."""

    def __init__(self, function):
        super().__init__()
        self.trunk, self.function = trunk(), function

    def forward(self, x):
        return self.function(self.trunk(x))


REFUSED = {
    "a tuple": (lambda A: (A.mean((2, 3)), A), OutputError, "came tuple; wrap it"),
    "a map": (lambda A: A, OutputError, r"\(2, 8, 3, 5\)"),
    "squeezed batch": (lambda A: A.mean((2, 3)).squeeze(), OutputError, r"came \(8,\) of"),
    "NaN": (lambda A: A.mean((2, 3)) * float("nan"), OutputError, "NaN or infinity"),
    "zero": (lambda A: A.mean((2, 3)) * 0, OutputError, "length zero"),
    "whole numbers": (lambda A: A.mean((2, 3)).long(), OutputError, "int64"),
    "mixes the batch": (lambda A: A.mean((2, 3)) + A.mean((0, 2, 3)), OutputError,
                        "must not depend on the rest of its batch"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_networks_that_are_no_embedding_models(name):
    function, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        wa.EmbeddingModel.from_module(randomise(Bad(function)), "trunk", SIZE)


def test_training_mode_is_refused_by_name():
    net = Bad(lambda A: A.mean((2, 3)))
    net.norm = nn.BatchNorm1d(C)
    net.eval()
    net.norm.train()
    with pytest.raises(TrainingModeError, match=r"norm \(BatchNorm1d\) is in training mode"):
        wa.EmbeddingModel.from_module(net, "trunk", SIZE)
    model = wa.EmbeddingModel.from_module(net.eval(), "trunk", SIZE)
    net.train()  # later, as in a callback while training
    with pytest.raises(TrainingModeError, match=r"call \.eval\(\) first"):
        model.decompose(torch.randn(1, 3, *IMAGE_HW))


def test_batch_norm_on_batch_statistics_is_refused():
    net = Bad(lambda A: A.mean((2, 3)))
    net.norm = nn.BatchNorm1d(C, track_running_stats=False)
    with pytest.raises(ModelError, match="keeps no running statistics"):
        wa.EmbeddingModel.from_module(net.eval(), "trunk", SIZE)


def test_a_wrong_layer_name_lists_near_ones():
    net = nn.Sequential()
    net.layer4 = trunk()
    net.layer3 = nn.Identity()
    with pytest.raises(LayerError, match=r"no layer 'layr4'; near ones: layer4"):
        wa.EmbeddingModel.from_module(net.eval(), "layr4", SIZE)
    with pytest.raises(LayerError, match=r"it has: "):
        wa.EmbeddingModel.from_module(net.eval(), "🐦", SIZE)


def test_layers_without_one_map_are_refused():
    net = randomise(Bad(lambda A: A.mean((2, 3))))
    net.after = nn.Identity()
    net.function = lambda A: net.after(A.mean((2, 3)))
    with pytest.raises(LayerError, match=r"must give a map .* came \(2, 8\)"):
        wa.EmbeddingModel.from_module(net, "after", SIZE)
    net.function = lambda A: net.after(net.after(A)).mean((2, 3))
    with pytest.raises(LayerError, match="it gave 2"):
        wa.EmbeddingModel.from_module(net, "after", SIZE)
    net.function = lambda A: A.mean((2, 3))
    with pytest.raises(LayerError, match="it gave 0"):
        wa.EmbeddingModel.from_module(net, "after", SIZE)


def test_a_network_without_maps_is_refused():
    with pytest.raises(LayerError, match="no module that gives a feature map"):
        wa.EmbeddingModel.from_module(
            nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 20, 4)).eval(), preprocess=SIZE
        )


def test_wrong_pool_and_missing_preprocess():
    with pytest.raises(ValueError, match="mean, max, gem, flatten or a module; came 'median'"):
        wa.EmbeddingModel(trunk(), "median")
    model = small()
    assert "not run yet" in repr(model)
    with pytest.raises(ImageError, match="only ready-made tensors"):
        model.explain(Image.new("RGB", (20, 12)))
    model.explain(images(1)[0])
    assert "8×3×5 map" in repr(model)


def test_the_network_is_left_as_it_was():
    net = randomise(Bad(lambda A: A.mean((2, 3)).relu_()))
    seen = []
    net.trunk.register_forward_hook(lambda m, i, o: seen.append(1))
    before = copy.deepcopy(net.state_dict())
    flags = [(m.training, len(m._forward_hooks)) for m in net.modules()]
    grads = [(p.requires_grad, p.grad) for p in net.parameters()]
    x = images(2)
    E = net(x)
    model = wa.EmbeddingModel.from_module(net, "trunk", SIZE)
    model.decompose(x)
    assert torch.is_grad_enabled()
    assert [(m.training, len(m._forward_hooks)) for m in net.modules()] == flags
    assert [(p.requires_grad, p.grad) for p in net.parameters()] == grads
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert torch.equal(net(x), E)
    assert torch.equal(model(x), E)


def test_nothing_stays_behind_after_an_error():
    def fails(A):
        if len(A) == 3:
            raise RuntimeError("no batches of three")
        return A.mean((2, 3))

    net = randomise(Bad(fails))
    model = wa.EmbeddingModel.from_module(net, "trunk", SIZE)
    with pytest.raises(RuntimeError, match="batches of three"):
        model.decompose(images(3))
    assert not any(m._forward_hooks for m in net.modules())
    assert torch.nn.functional.gelu(torch.ones(1, requires_grad=True)).requires_grad


def test_batches_do_not_change_results():
    model = small()
    x = list(images(5))
    together = model.explain(x, batch_size=2)
    for one, image in zip(together, x, strict=True):
        alone = model.explain(image)
        torch.testing.assert_close(one.values, alone.values)
        torch.testing.assert_close(one.embedding, alone.embedding)


def test_images_of_different_sizes_keep_their_order():
    model = small()
    x = [images(1)[0], images(1, seed=2, hw=(24, 16))[0], images(1, seed=3)[0]]
    found = model.explain(x)
    assert [c.frame.grid_hw for c in found] == [(3, 5), (6, 4), (3, 5)]
    torch.testing.assert_close(found[2].embedding, model(x[2][None])[0])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 1e-2), (torch.bfloat16, 5e-2)])
@pytest.mark.parametrize("pool", ["mean", "flatten"])
def test_half_precision_networks_are_summed_in_float32(dtype, tolerance, pool):
    k = C if pool == "mean" else C * H * W
    net = randomise(
        nn.ModuleList([trunk(), nn.Sequential(nn.Linear(k, 6), nn.GELU(), nn.Linear(6, D))])
    )
    exact = wa.EmbeddingModel(net[0], pool, net[1]).decompose(images(2))
    half = copy.deepcopy(net).to(dtype)
    model = wa.EmbeddingModel(half[0], pool, half[1])
    v, b, E, _, _ = model.decompose(images(2))
    assert v.dtype == b.dtype == E.dtype == torch.float32
    assert next(half.parameters()).dtype == dtype
    torch.testing.assert_close(v.sum(1) + b, E, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(v.double(), exact[0], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(E, model(images(2).to(dtype)).float(), rtol=0, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    x = images(2)
    model = small()
    v, b, _, _, _ = model.decompose(x)
    model.to("cuda")
    v_gpu, b_gpu, _, _, _ = model.decompose(x)
    assert v_gpu.device.type == "cuda"
    torch.testing.assert_close(v_gpu.cpu(), v)
    torch.testing.assert_close(b_gpu.cpu(), b)


def test_a_model_follows_its_network_to_another_type():
    model = small(preprocess=SIZE)
    model.decompose(images(1))
    model.float()
    v, _, _, _, _ = model.decompose(images(1))
    assert v.dtype == torch.float32


@pytest.mark.parametrize("traceable", [True, False])
def test_threads_that_share_a_network_do_not_meet(traceable):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk, self.conv = trunk(), nn.Conv2d(C, D, 3)

        def forward(self, x):
            if not traceable and x.sum() > 1e9:
                raise RuntimeError
            return self.conv(self.trunk(x)).mean((2, 3))

    model = wa.EmbeddingModel.from_module(randomise(Net()), "trunk", SIZE)
    batches = [images(1, seed=s) for s in range(24)]
    alone = [model.decompose(x)[0] for x in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda x: model.decompose(x)[0], batches))
    for a, b in zip(alone, together, strict=True):
        torch.testing.assert_close(a, b)


def test_an_embedding_returned_in_float32_by_a_network_in_half_precision():
    net = randomise(Bad(lambda A: A.mean((2, 3)).float())).to(torch.bfloat16)
    v, b, E, _, _ = wa.EmbeddingModel.from_module(net, "trunk", SIZE).decompose(images(2))
    torch.testing.assert_close(v.sum(1) + b, E)


def test_autocast_around_it_changes_nothing_but_the_network():
    model = small()
    model.float()
    with torch.autocast("cpu", torch.bfloat16):
        v, b, E, _, _ = model.decompose(images(2).float())
    torch.testing.assert_close(v.sum(1) + b, E)


def test_what_a_forward_keeps_on_its_modules_is_never_a_stand_in():
    class Keeps(nn.Module):
        def __init__(self, traceable):
            super().__init__()
            self.trunk, self.conv, self.traceable = trunk(), nn.Conv2d(C, D, 3), traceable

        def forward(self, x):
            if not self.traceable and x.sum() > 1e9:
                raise RuntimeError
            self.last = self.trunk(x)
            self.after = self.conv(self.last)
            return self.after.mean((2, 3))

    for traceable in (True, False):
        net = randomise(Keeps(traceable))
        model = wa.EmbeddingModel.from_module(net, "trunk", SIZE)
        x = images(2)
        model.decompose(x)
        assert type(net.last) is type(net.after) is torch.Tensor
        torch.testing.assert_close(net.last, net.trunk(x))
        torch.testing.assert_close(copy.deepcopy(net)(x), net(x))


def test_threads_may_bring_new_image_sizes():
    model = wa.EmbeddingModel.from_module(
        randomise(Bad(lambda A: torch.nn.functional.gelu(A).mean((2, 3)))), "trunk", SIZE
    )
    batches = [images(1, seed=s, hw=(12 + 4 * s, 20 + 4 * (s % 5))) for s in range(20)]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(model.decompose, batches))
    for found, x in zip(together, batches, strict=True):
        torch.testing.assert_close(found[0], model.decompose(x)[0])


def test_channels_last_is_told_by_the_shape_of_the_image():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.permute = nn.Conv2d(3, 24, 4, 4), nn.Identity()

        def forward(self, x):
            return self.permute(self.conv(x).permute(0, 2, 3, 1)).mean((1, 2))

    net = Last().eval()
    last = wa.EmbeddingModel.from_module(net, "permute", wa.Preprocess(size=64))
    assert "24×16×16 map" in repr(last)
    first = wa.EmbeddingModel.from_module(net, "conv", wa.Preprocess(size=64))
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for one, other in zip(last.decompose(x)[:2], first.decompose(x)[:2], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    # Few channels and a wide image, channels first.
    wide = wa.EmbeddingModel(nn.Conv2d(3, 4, 4, 4), "mean", None, wa.Preprocess(size=(8, 160)))
    assert "4×2×40 map" in repr(wide)


def test_a_module_that_runs_twice_is_not_the_last_map():
    net = Bad(lambda A: A)
    net.relu = nn.ReLU()
    net.convs = nn.ModuleList([nn.Conv2d(C, C, 1), nn.Conv2d(C, D, 1)])
    net.function = lambda A: net.relu(net.convs[1](net.relu(net.convs[0](A)))).mean((2, 3))
    assert wa.EmbeddingModel.from_module(net.eval(), preprocess=SIZE).layer == "convs.1"


def test_models_are_copied_and_pickled():
    model = small(preprocess=SIZE)
    x = images(1)
    expected = model.decompose(x)[0]
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(other.decompose(x)[0], expected)


def test_a_bad_image_in_a_batch_is_set_aside(tmp_path):
    model = small(preprocess=SIZE)
    (tmp_path / "bad.jpg").write_text("no image")
    good = Image.effect_noise((40, 24), 50).convert("RGB")
    sources = [good, tmp_path / "bad.jpg", good.rotate(180), tmp_path / "none.jpg"]
    found = model.explain(sources, batch_size=3, strict=False)
    assert [type(one) for one in found] == [
        wa.Contributions,
        ImageError,
        wa.Contributions,
        ImageError,
    ]
    assert "bad.jpg" in str(found[1])
    torch.testing.assert_close(found[2].values, model.explain(sources[2]).values)
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        model.explain(sources)
    ranking = wa.explain_ranking(model, good, sources, strict=False)
    assert [type(one) for one in ranking] == [wa.Pair, ImageError, wa.Pair, ImageError]
    assert ranking[0].similarity == pytest.approx(1)


def test_arguments_of_the_wrong_kind():
    model = small(preprocess=SIZE)
    with pytest.raises(ModelError, match=r"came str; make one with whyalike\.load"):
        wa.explain_pair("timm:resnet18", "a.jpg", "b.jpg")
    with pytest.raises(ModelError, match="came function"):
        wa.EmbeddingModel.from_module(lambda x: x)
    with pytest.raises(ImageError, match="use explain_pair"):
        wa.explain_ranking(model, images(1)[0], "abc.jpg")
    with pytest.raises(ValueError, match="came 0"):
        model.explain([], batch_size=0)
    assert model.explain([]) == []


def test_wrapped_networks_are_unwrapped():
    net = randomise(Bad(lambda A: A.mean((2, 3))))
    for wrapped in (nn.DataParallel(net), torch.compile(net, backend="eager")):
        model = wa.EmbeddingModel.from_module(wrapped, "trunk", SIZE)
        assert "→ mean →" in repr(model)
