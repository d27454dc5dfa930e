"""Convolutions with held weights: values and derivatives, both ways, are torch's own."""

import pytest
import torch
import torch.nn.functional as F

from nets import seeded
from whyalike.decomposition import Derivative, differentiating
from whyalike.surrogates.convolution import convolution

# The function, the shapes of input and weight, and how it is called.
CALLS = [
    (F.conv1d, (2, 4, 9), (6, 4, 3), (2, 1), {}),
    (F.conv2d, (2, 4, 7, 6), (6, 4, 3, 3), (), {}),
    (F.conv2d, (2, 4, 7, 6), (4, 1, 3, 3), (2, (1, 2), 1, 4), {}),
    (F.conv2d, (2, 4, 7, 6), (6, 2, 3, 2), (1,), {"padding": (2, 0), "dilation": 2, "groups": 2}),
    (F.conv2d, (2, 4, 7, 6), (6, 4, 3, 3), (), {"padding": "same"}),
    (F.conv2d, (4, 7, 6), (6, 4, 3, 3), (), {"stride": (2,)}),
    (F.conv3d, (2, 2, 4, 5, 4), (3, 2, 2, 2, 2), (1, 1), {}),
    (F.conv_transpose1d, (2, 4, 5), (4, 3, 3), (2,), {"output_padding": 1}),
    (F.conv_transpose2d, (2, 4, 5, 4), (4, 3, 3, 3), (2, 1, 1, 2, 2), {}),
    (F.conv_transpose3d, (2, 2, 3, 3, 3), (2, 3, 2, 2, 2), (), {"stride": 2}),
]


@pytest.mark.parametrize(("func", "shape", "of_weight", "args", "kwargs"), CALLS)
def test_both_derivatives_are_those_of_torch(func, shape, of_weight, args, kwargs):
    x, *tangents = torch.randn(4, *shape, generator=seeded(1), dtype=torch.float64)
    weight = torch.randn(of_weight, generator=seeded(2), dtype=torch.float64)
    if func is F.conv_transpose2d:
        weight = weight[:, :1].repeat(1, 3, 1, 1)

    def theirs(x: torch.Tensor) -> torch.Tensor:
        return func(x, weight, None, *args, **kwargs)

    def ours(x: torch.Tensor) -> torch.Tensor:
        return convolution(func, x, weight, *args, **kwargs)

    expected, back = torch.func.vjp(theirs, x)
    u = torch.randn(expected.shape, generator=seeded(3), dtype=torch.float64)
    at = x.clone().requires_grad_()
    y = ours(at)
    torch.testing.assert_close(y.detach(), expected, rtol=1e-13, atol=1e-13)
    (found,) = torch.autograd.grad(y, at, u)
    torch.testing.assert_close(found, back(u)[0], rtol=1e-12, atol=1e-12)
    with differentiating(x):
        along = torch.stack([torch.func.jvp(theirs, (x,), (t,))[1] for t in tangents])
    derivative = Derivative(ours, x)
    for some in (tangents, tangents[:1]):
        found = derivative.along(torch.stack(some))
        torch.testing.assert_close(found, along[: len(some)], rtol=1e-12, atol=1e-12)


def test_what_does_not_depend_on_the_input_has_no_derivative():
    x = torch.ones(3, dtype=torch.float64)
    for run in (lambda x: torch.ones(1, 2), lambda x: x.sum() * 0 + torch.ones(1, 2)):
        assert not Derivative(run, x).along(torch.ones(2, 3, dtype=torch.float64)).any()
