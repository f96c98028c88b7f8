"""A deterministic index sampler for data that is drawn, not stored.

In epoch e the sampler yields the indices ``e * length + i`` for i in [0, length), rank r of W
taking i ≡ r (mod W).  The dataset computes item ``index`` from (seed, index) alone, for instance
with ``generator_for(seed, index)``.  Three properties follow:

* every draw of a run has its own index, none is repeated on another rank, worker or epoch;
* the b-th batch of size B on W ranks together is the b-th batch of size B·W on one rank;
* a resumed run continues exactly, with any number of workers: its place is two numbers, the epoch
  and how far it has come (:class:`common.training.loader.DrawLoader`).
"""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import Sampler

from common.errors import UserError


class DrawSampler(Sampler[int]):
    """Yields ``epoch * length + i``, partitioned over ranks in equal parts.

    Args:
        length: draws per epoch over all ranks; a multiple of ``num_replicas``.
        num_replicas: W, number of processes.
        rank: this process, in [0, W).
        advance: False gives the indices of epoch 0 in every epoch, for validation.

    Attributes:
        epoch: of the next iteration.
        skip: draws of this process at the start of the next iteration that are left out.

    Raises:
        ValueError: if ``length`` is not a positive multiple of ``num_replicas``, because ranks
            with unequal numbers of batches wait for each other for ever.
    """

    def __init__(
        self, length: int, num_replicas: int = 1, rank: int = 0, advance: bool = True
    ) -> None:
        if num_replicas < 1:
            raise UserError(f"num_replicas must be at least 1, got {num_replicas}")
        if not 0 <= rank < num_replicas:
            raise UserError(f"rank must lie in [0, {num_replicas}), got {rank}")
        if length < 1 or length % num_replicas:
            nearest = -(-max(length, 1) // num_replicas) * num_replicas
            raise UserError(
                f"length must be a positive multiple of the {num_replicas} processes, "
                f"got {length}; the next one is {nearest}"
            )
        self.length = length
        self.num_replicas = num_replicas
        self.rank = rank
        self.advance = advance
        self.epoch = 0
        self.skip = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration (ignored with ``advance=False``)."""
        if epoch < 0:
            raise UserError(f"epoch must not be negative, got {epoch}")
        self.epoch = epoch if self.advance else 0

    def __iter__(self) -> Iterator[int]:
        start = self.epoch * self.length
        first = start + self.rank + self.skip * self.num_replicas
        return iter(range(first, start + self.length, self.num_replicas))

    def __len__(self) -> int:
        return self.length // self.num_replicas
