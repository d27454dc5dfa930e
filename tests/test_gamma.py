"""The γ surrogate, held to its definition: a loop over the terms of every sum."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets import C, H, W, randomise
from whyalike.decomposition import LinearHead, from_head
from whyalike.layout import Layout
from whyalike.surrogates import Surrogate

GAMMAS = (0.0, 0.05, 1.0, math.inf)


def shared(terms: Tensor, gamma: float) -> Tensor:
    """What each term of a sum carries of it: the definition, with P and N."""
    y = terms.sum()
    if y == 0:
        return torch.zeros_like(terms)
    mine = terms * y.sign()  # for y < 0 the mirror image
    P, N = mine.clamp(min=0).sum(), mine.clamp(max=0).sum()
    if math.isinf(gamma):
        carried = y.abs() * mine.clamp(min=0) / P
    else:
        carried = y.abs() * mine * (1 + gamma * (mine > 0).double()) / ((1 + gamma) * P + N)
    return carried * y.sign()


def by_terms(weight: Tensor, bias: Tensor, x: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """M and c with Mx + c = Wx + β for one vector x, every row shared among its terms."""
    M, c = torch.zeros_like(weight), torch.zeros_like(bias)
    for o in range(len(weight)):
        carried = shared(torch.cat([weight[o] * x, bias[o : o + 1]]), gamma)
        M[o] = torch.where(x == 0, 0.0, carried[:-1] / torch.where(x == 0, 1.0, x))
        c[o] = carried[-1]
    return M, c


def matrix_of(conv: nn.Conv2d, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """A convolution as a matrix over the flattened map, and its bias for each output."""
    n = math.prod(shape)
    eye = torch.eye(n, dtype=torch.float64).view(n, *shape)
    bias = conv.bias
    none = F.conv2d(eye, conv.weight, None, conv.stride, conv.padding, groups=conv.groups)
    places = none[0, 0].numel()
    return none.flatten(1).T, bias.repeat_interleave(places)


def fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    folded = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride,
                       conv.padding, groups=conv.groups).double()  # fmt: skip
    folded.weight.data = conv.weight * scale[:, None, None, None]
    before = 0 if conv.bias is None else conv.bias
    folded.bias.data = (before - norm.running_mean) * scale + norm.bias
    return folded


class Small(nn.Module):
    """Convolutions with BatchNorm, a residual sum, ReLU, mean."""

    def __init__(self, bias: bool = True, in_place: bool = False) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(C, C, 3, padding=1, bias=bias), nn.BatchNorm2d(C)
        self.conv2, self.norm2 = nn.Conv2d(C, C, 1, bias=bias), nn.BatchNorm2d(C)
        self.relu = nn.ReLU(inplace=in_place)
        self.in_place = in_place

    def forward(self, A: Tensor) -> Tensor:
        x = self.relu(self.norm1(self.conv1(A)))
        y = self.norm2(self.conv2(x))
        if self.in_place:
            y += x
        else:
            y = y + x
        return self.relu(y).mean((2, 3))


@torch.no_grad()
def slowly(net: Small, A: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """v of the cells with located biases, and without, by multiplying matrices: (cells, C) each."""
    shape = (C, H, W)
    x0 = A.flatten()
    W1, b1 = matrix_of(fold(net.conv1, net.norm1), shape)
    M1, c1 = by_terms(W1, b1, x0, gamma)
    gate1 = (M1 @ x0 + c1 > 0).double()
    x1 = gate1 * (M1 @ x0 + c1)
    W2, b2 = matrix_of(fold(net.conv2, net.norm2), shape)
    M2, c2 = by_terms(W2, b2, x1, gamma)
    y = M2 @ x1 + c2
    n = len(y)
    left, right = torch.zeros(n, dtype=y.dtype), torch.zeros(n, dtype=y.dtype)
    for i in range(n):
        carried = shared(torch.stack([y[i], x1[i]]), gamma)
        left[i] = carried[0] / y[i] if y[i] != 0 else 0
        right[i] = carried[1] / x1[i] if x1[i] != 0 else 0
    gate2 = (y + x1 > 0).double()
    # mean over the cells: a sum, shared as well; its terms are not negative
    spread = torch.kron(torch.eye(C), torch.ones(1, H * W)).double()
    last = spread / (H * W) * gate2
    through = last * left @ M2 + last * right
    from_x0 = (through * gate1 @ M1) * x0
    from_c1 = through * gate1 * c1
    from_c2 = last * left * c2
    by_cell = lambda terms: terms.view(C, C, H * W).sum(1).T  # noqa: E731
    return by_cell(from_x0 + from_c1 + from_c2), by_cell(from_x0)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("in_place", [True, False])
def test_gamma_shares_every_sum_among_its_terms(gamma, bias, in_place):
    net = randomise(Small(bias, in_place))
    A = torch.randn(1, C, H, W, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    located, residual = slowly(net, A[0], gamma)
    for biases, expected in (("located", located), ("residual", residual)):
        found = from_head(net, A, surrogate=Surrogate("gamma", gamma, biases))
        torch.testing.assert_close(found.v[0], expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.v.sum(1) + found.b, net(A), rtol=1e-9, atol=1e-9)
    # what biases are located carries all of it, as nothing is added to the pooled vector
    torch.testing.assert_close(located.sum(0), net(A)[0], rtol=1e-9, atol=1e-9)


def test_gamma_zero_is_the_gates():
    net = randomise(Small())
    A = torch.randn(1, C, H, W, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    for biases in ("residual", "located"):
        gates = from_head(net, A, surrogate=Surrogate("gates", biases=biases))
        gamma = from_head(net, A, surrogate=Surrogate("gamma", 0.0, biases))
        torch.testing.assert_close(gamma.v, gates.v, rtol=1e-9, atol=1e-9)


class Tokens(nn.Module):
    """A linear layer on tokens, and attention whose weights do not depend on the image."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(C, C)
        self.mix = nn.Parameter(torch.empty(5, 6))

    def forward(self, A: Tensor) -> Tensor:
        return (self.mix @ self.linear(A))[:, 0]


def of_tokens(net: nn.Module, gamma: float, biases: str) -> tuple[Tensor, Tensor]:
    """A prefix token and five cells, (6, C), and what each of them gives."""
    A = torch.randn(1, 6, C, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    layout = Layout("tokens", (1, 5), 1)
    found = from_head(net, A, layout=layout, surrogate=Surrogate("gamma", gamma, biases))
    return A[0], found.v[0]


@pytest.mark.parametrize("gamma", GAMMAS)
def test_gamma_on_tokens(gamma):
    net = randomise(Tokens())
    A, v = of_tokens(net, gamma, "located")
    with torch.no_grad():
        y = A @ net.linear.weight.T + net.linear.bias
        expected = torch.zeros(6, C, dtype=torch.float64)
        for c in range(C):
            # each token's bias lies where the token does: all of y is the token's own
            expected[:, c] = shared(net.mix[0] * y[:, c], gamma)
    torch.testing.assert_close(v, expected, rtol=1e-9, atol=1e-9)


class Residual(Tokens):
    """The same, with a branch beside the linear layer and a constant for each token."""

    def __init__(self) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.empty(6, C))

    def forward(self, A: Tensor) -> Tensor:
        return (self.mix @ (A + self.linear(A) + self.constant))[:, 0]


@pytest.mark.parametrize("gamma", GAMMAS)
def test_what_a_token_adds_up_by_itself_is_left_to_the_gates(gamma):
    """Channels and branches keep their parts of it; only the sum over tokens is shared."""
    net = randomise(Residual())
    A, v = of_tokens(net, gamma, "residual")
    with torch.no_grad():
        of_cells = A + A @ net.linear.weight.T
        y = of_cells + net.linear.bias + net.constant
        expected = torch.zeros(6, C, dtype=torch.float64)
        for c in range(C):
            expected[:, c] = shared(net.mix[0] * y[:, c], gamma) * of_cells[:, c] / y[:, c]
    torch.testing.assert_close(v, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["gates", "gamma"])
@pytest.mark.parametrize("biases", ["residual", "located"])
def test_maps_and_regions_are_those_of_the_values(kind, biases):
    """Reverse mode, forward mode and all v at once: one and the same linear map."""
    net = randomise(Small())
    generator = torch.Generator().manual_seed(4)
    A = torch.randn(2, C, H, W, generator=generator, dtype=torch.float64)
    linear = LinearHead(net, A, surrogate=Surrogate(kind, 0.25, biases))
    v = linear.values(chunk_bytes=1)
    u = torch.randn(2, C, generator=generator, dtype=torch.float64)
    weights = torch.rand(3, 2, H * W, generator=generator, dtype=torch.float64)
    E, pulled = linear.pull(u)
    torch.testing.assert_close(E, net(A), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(pulled, torch.einsum("nid,nd->ni", v, u), rtol=1e-9, atol=1e-9)
    E, pushed = linear.push(weights)
    torch.testing.assert_close(pushed, torch.einsum("kni,nid->knd", weights, v), rtol=1e-9,
                               atol=1e-9)  # fmt: skip
