"""A linear state-space layer with a diagonal state matrix, S4D (Gu et al. 2022, "On the Parameterization and Initialization
of Diagonal State Space Models"), for the recurrent family.

- each feature h has a state of complex modes, s' = A s + x, and the output is y = 2 Re(C s) + D x: every mode is a decaying
  oscillation, and its conjugate makes the sum real
- sampled at the step dt of its feature (zero-order hold), that recurrence is a causal convolution, y = K * x, with the kernel
  K[h, l] = 2 Re(sum over n of C (exp(dt A) - 1) / A exp(dt A l))
- real numbers only, since ONNX and TensorRT have no complex ones; the convolution is a matrix multiplication with the
  Toeplitz matrix of K: no FFT, all positions at once, but memory of H T T numbers, independent of the batch
- being causal, it reads padding on the right only after all that is real
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, glu, pad

STEPS = (0.001, 0.1)  # range of dt at the start: features remember about 20 to 2,000 steps


class Kernel(nn.Module):
    """The convolution kernel of every feature: length T -> [H, T]."""

    def __init__(self, features: int, state: int) -> None:
        super().__init__()
        low, high = (math.log(step) for step in STEPS)
        self.log_step = nn.Parameter(torch.rand(features, 1) * (high - low) + low)
        self.log_decay = nn.Parameter(torch.full((features, state), math.log(0.5)))  # S4D-Lin: A = -1/2 + i pi n
        self.frequency = nn.Parameter(math.pi * torch.arange(state).float().repeat(features, 1))
        self.output = nn.Parameter(torch.randn(2, features, state) * math.sqrt(0.5))  # C, real and imaginary part

    def forward(self, time: Tensor) -> Tensor:
        step, decay = self.log_step.exp(), -self.log_decay.exp()  # [H, 1], [H, S]
        size = (step * decay).exp()  # |exp(dt A)|
        # B = (exp(dt A) - 1) / A, by multiplying with A's conjugate
        real, imaginary = size * (step * self.frequency).cos() - 1, size * (step * self.frequency).sin()
        norm = decay.square() + self.frequency.square()
        b_real = (real * decay + imaginary * self.frequency) / norm
        b_imaginary = (imaginary * decay - real * self.frequency) / norm
        c_real, c_imaginary = self.output
        g_real = (c_real * b_real - c_imaginary * b_imaginary).unsqueeze(1)  # C B, [H, 1, S]
        g_imaginary = (c_real * b_imaginary + c_imaginary * b_real).unsqueeze(1)
        elapsed = (step * time).unsqueeze(2)  # [H, T, 1]
        angle = elapsed * self.frequency.unsqueeze(1)  # [H, T, S]
        modes = (elapsed * decay.unsqueeze(1)).exp() * (g_real * angle.cos() - g_imaginary * angle.sin())
        return 2 * modes.sum(dim=2)


class S4D(nn.Module):
    """One residual block: [N, T, D] -> [N, T, H], each position seeing itself and what came before.

    The state-space convolution, GELU and a gated linear unit that mixes the features, beside a shortcut, then normalised. Where
    D differs from H, a linear map and GELU come first: the convolution alone, being linear, weighs a step by its age and not by
    what it holds.
    """

    def __init__(self, width: int, features: int, state: int) -> None:
        super().__init__()
        self.embed = nn.Identity() if width == features else nn.Sequential(nn.Linear(width, features), nn.GELU())
        self.kernel = Kernel(features, state)
        self.skip = nn.Parameter(torch.ones(features))  # D
        self.mix = nn.Linear(features, 2 * features)
        self.norm = nn.LayerNorm(features)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = convolve(self.kernel(torch.arange(x.shape[1], device=x.device)), x) + self.skip * x
        return self.norm(x + glu(self.mix(gelu(y))))


def convolve(kernel: Tensor, x: Tensor) -> Tensor:
    """The causal convolution y[n, t, h] = sum over s up to t of kernel[h, t - s] x[n, s, h]: kernel [H, T], x and y [N, T, H]."""
    features, length = kernel.shape
    position = torch.arange(length, device=x.device)
    lag = position.unsqueeze(1) - position  # [T, T]
    index = (lag + length).flatten()  # into the kernel behind T zeros, which stand for what is yet to come
    toeplitz = pad(kernel, (length, 0)).index_select(1, index).view(features, length, length)
    y = toeplitz @ x.permute(2, 1, 0).contiguous()  # [H, T, T] @ [H, T, N] -> [H, T, N]
    return y.permute(2, 1, 0).contiguous()  # [N, T, H]; contiguous, since what follows is several times slower otherwise
