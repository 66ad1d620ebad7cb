"""The kernels and matrices of the linear operators."""

import math

import numpy as np
import torch
from torch import Tensor

from dsg.files import first_line, resolve
from dsg.image_files import read_brightness


def bicubic_matrix(n: int, factor: int) -> np.ndarray:
    """float64 [ceil(n/factor), n]: Keys' kernel (a = -.5) stretched by `factor`, rows summing to 1."""
    m = math.ceil(n / factor)
    centre = (np.arange(m) + 0.5 - (m - n / factor) / 2) * factor - 0.5  # of each output pixel, in input pixels
    offset = np.arange(-2 * factor - 1, 2 * factor + 2)
    taps = np.floor(centre)[:, None].astype(int) + offset
    weights = _keys((centre[:, None] - taps) / factor)
    weights /= weights.sum(1, keepdims=True)
    mirrored = np.mod(taps, 2 * n)  # symmetric: ... 1 0 | 0 1 ... n-1 | n-1 n-2 ...
    mirrored = np.where(mirrored < n, mirrored, 2 * n - 1 - mirrored)
    return _scatter(weights, mirrored, n)


def gaussian_matrix(n: int, std: float, radius: int) -> np.ndarray:
    """float64 [n, n]: normalised Gaussian taps, borders reflected without repeating the edge pixel."""
    offset = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offset / std) ** 2)
    taps = np.abs(np.arange(n)[:, None] + offset)
    taps = np.where(taps < n, taps, 2 * (n - 1) - taps)
    return _scatter(np.broadcast_to(kernel / kernel.sum(), taps.shape), taps, n)


def motion_kernel(generator: np.random.Generator, size: int, intensity: float, steps: int = 400) -> Tensor:
    """float32 [size, size], non-negative, sum 1, centred on its centre of mass."""
    velocity = np.exp(2j * np.pi * generator.uniform())
    position = np.zeros(steps, dtype=complex)
    for k in range(1, steps):
        shake = generator.standard_normal() + 1j * generator.standard_normal()
        velocity += intensity * (0.15 * shake - 0.02 * position[k - 1] / max(abs(position[k - 1]), 1.0))
        if generator.uniform() < 0.01 * intensity:  # a jerk turns the camera around
            velocity *= -np.exp(1j * generator.normal(0, 0.5))
        velocity /= abs(velocity)
        position[k] = position[k - 1] + velocity
    position -= position.mean()
    reach = max(np.abs(position.real).max(), np.abs(position.imag).max())
    length = generator.uniform(0.6, 1.0)  # of what the kernel could hold
    position *= length * (size // 2 - 1) / reach
    kernel = np.zeros((size, size))
    for dy in (0, 1):  # bilinear splat of every point
        for dx in (0, 1):
            y, x = np.floor(position.imag) + dy, np.floor(position.real) + dx
            weight = (1 - np.abs(position.imag - y)) * (1 - np.abs(position.real - x))
            np.add.at(kernel, (y.astype(int) + size // 2, x.astype(int) + size // 2), weight)
    return torch.from_numpy((kernel / kernel.sum()).astype(np.float32))


def _keys(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel, a = -.5."""
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def _scatter(weights: np.ndarray, taps: np.ndarray, n: int) -> np.ndarray:
    matrix = np.zeros((len(taps), n))
    np.add.at(matrix, (np.arange(len(taps))[:, None], taps), weights)
    return matrix


def read_kernel(file: str) -> Tensor:
    """float32 [K, L], summing to 1, from a .npy file or an image (its brightness).

    Raises:
        ValueError: no such file, or no kernel in it.
    """
    path = resolve(file)
    if path.suffix.lower() == ".npy":
        try:
            kernel = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"task.kernel={file} cannot be read as a .npy file: {first_line(error)}") from None
    else:
        try:
            kernel = read_brightness(path)
        except ValueError as error:
            raise ValueError(f"task.kernel={file}: {error}") from None
    if kernel.ndim != 2 or kernel.dtype.kind not in "fiu" or not kernel.size or not np.isfinite(kernel).all():
        raise ValueError(f"task.kernel={file}: expected finite numbers [K, L]")
    if kernel.min() < 0 or kernel.sum() <= 0:
        raise ValueError(f"task.kernel={file}: expected numbers of 0 or more that do not sum to 0")
    return torch.from_numpy(kernel / kernel.sum()).float()
