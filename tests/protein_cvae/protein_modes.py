"""Loose chains for the modes of a template, and their precision by its formula."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from protein_cvae.geometry.frames import rotation_from_axis_angle
from protein_cvae.model.elastic import NormalModes, normal_modes


@dataclass
class Chains:
    """Frames (B, L, 3, 3), CA (B, L, 3) in float64 and what else the modes need."""

    frames: torch.Tensor
    origin: torch.Tensor
    mask: torch.Tensor
    place: torch.Tensor
    chain: torch.Tensor
    generator: torch.Generator

    def draw(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def modes(self) -> NormalModes:
        return normal_modes(self.frames, self.origin, self.mask, self.place, self.chain)

    def turned(self, angles: list[float]) -> Chains:
        """In another pose."""
        turn = rotation_from_axis_angle(torch.tensor(angles, dtype=torch.float64))
        origin = self.origin @ turn.mT + 4.0
        return Chains(turn @ self.frames, origin, self.mask, self.place, self.chain, self.generator)

    def upright(self) -> Chains:
        """The same residues with frames along the axes."""
        frames = torch.eye(3, dtype=torch.float64).expand_as(self.frames)
        return Chains(frames, self.origin, self.mask, self.place, self.chain, self.generator)

    def rows(self, item: int) -> torch.Tensor:
        """(3L,) bool, coordinates of present residues."""
        return self.mask[item].repeat_interleave(3)


def chains(length: int = 12, items: int = 2, seed: int = 0) -> Chains:
    """Two chains of half the length each; the first of several items lacks its last residues."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    step = torch.nn.functional.normalize(draw(items, length, 3) + 0.7, dim=-1)
    mask = torch.ones(items, length, dtype=torch.bool)
    if items > 1:
        mask[0, -3:] = False
    chain = torch.zeros(items, length, dtype=torch.int64)
    chain[:, length // 2 :] = 1
    place = torch.arange(length).expand(items, -1)
    frames = rotation_from_axis_angle(draw(items, length, 3))
    return Chains(frames, 3.8 * step.cumsum(1), mask, place, chain, generator)


def dense_precision(x: np.ndarray, chain: np.ndarray) -> np.ndarray:
    """(3n, 3n) the formula of protein_cvae/model/elastic.py, pair by pair, without frames."""
    n = len(x)
    d = np.linalg.norm(x[:, None] - x[None], axis=-1)
    contacts = [
        max(1.0, sum(math.exp(-(d[i, j] ** 2) / (2 * 7.4**2)) for j in range(n) if j != i))
        for i in range(n)
    ]
    q, stiffness = np.zeros((3 * n, 3 * n)), np.zeros(n)
    for i in range(n):
        for j in range(i):
            k = (max(d[i, j], 2.5) / 5) ** -6 * (contacts[i] * contacts[j] / 100) ** 2.5
            if chain[i] == chain[j] and i - j <= 3:
                k *= math.exp((2.0, 1.0, 0.5)[i - j - 1])
            u = (x[i] - x[j]) / d[i, j]
            block = k * (0.05 * np.eye(3) + 0.95 * np.outer(u, u))
            for a, b, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
                q[3 * a : 3 * a + 3, 3 * b : 3 * b + 3] += sign * block
            stiffness[[i, j]] += k
    weight = stiffness / stiffness.mean()
    motions = np.zeros((3 * n, 6))
    centre = (weight[:, None] * x).sum(0) / weight.sum()
    for i in range(n):
        for axis in range(3):
            e = np.eye(3)[axis]
            motions[3 * i : 3 * i + 3, axis] = e
            motions[3 * i : 3 * i + 3, 3 + axis] = np.cross(e, x[i] - centre)
    w = np.diag(np.repeat(weight, 3))
    held = w @ motions @ np.linalg.inv(motions.T @ w @ motions) @ motions.T @ w
    return (q + stiffness.mean() * held) / 0.6


def best_amplitude(cost: Callable[[float], float], low: float, high: float) -> float:
    """Where a cost is least between two amplitudes, by SciPy."""
    bounds, options = (low, high), {"xatol": 1e-9}
    return float(minimize_scalar(cost, bounds=bounds, method="bounded", options=options).x)
