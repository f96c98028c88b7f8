"""A loader of numbered draws whose position belongs to the checkpoint.

:class:`~common.training.sampler.DrawSampler` says which draws an epoch has; the loader counts the
batches of it that it has given.  Lightning asks for both with ``state_dict`` when it saves and
gives them back with ``load_state_dict`` when it resumes inside an epoch: the next batch is then the
one that would have come, with any number of workers, since what workers have prefetched does not
count.  The order itself stays a pure function of (seed, epoch, index), so nothing else is stored.

Use, inside a LightningDataModule (with ``Trainer(use_distributed_sampler=False)``):

    def train_dataloader(self):
        sampler = DrawSampler(self.draws, self.trainer.world_size, self.trainer.global_rank)
        return DrawLoader(self.dataset, sampler, batch_size=...)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from torch.utils.data import DataLoader, Dataset

from common.errors import UserError
from common.training.sampler import DrawSampler

T_co = TypeVar("T_co", covariant=True)


class DrawLoader(DataLoader[T_co]):
    """A DataLoader over the draws of a DrawSampler that can go on in mid-epoch.

    Args:
        dataset: computes a draw from its index alone.
        draws: which indices come.
        batch_size: draws per batch of this process; None gives them one by one, not collated.
        collate_fn: joins draws.
        num_workers: loader processes.
        pin_memory: load into page-locked memory, for a GPU.
    """

    def __init__(
        self,
        dataset: Dataset[T_co],
        draws: DrawSampler,
        batch_size: int | None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__(
            dataset,
            batch_size=batch_size,
            sampler=draws,
            collate_fn=collate_fn,
            num_workers=num_workers,
            pin_memory=pin_memory,
        )
        self.draws = draws
        self._given = (0, 0)  # the epoch of the pass that began last, and its batches so far
        self._start = (0, 0)  # where a resumed training goes on

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator: workers start with the first batch, after Lightning has set the epoch.
        epoch, batches = self._start
        self._start = (0, 0)
        given = batches if epoch == self.draws.epoch else 0
        self.draws.skip = given * self._per_batch
        self._given = (self.draws.epoch, given)
        for batch in super().__iter__():
            given += 1
            self._given = (self._given[0], given)
            yield batch

    @property
    def _per_batch(self) -> int:
        return self.batch_size or 1

    def _shape(self) -> dict[str, int]:
        return {
            "draws_per_epoch": self.draws.length,
            "draws_per_step": self._per_batch * self.draws.num_replicas,
        }

    def state_dict(self) -> dict[str, int]:
        """Epoch, batches of it given so far, and draws per epoch and per step of all processes."""
        return {"epoch": self._given[0], "batches": self._given[1], **self._shape()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where the loader of ``state`` was.

        Raises:
            UserError: if it cut epochs or steps otherwise.
        """
        self.check(state)
        self._start = (state["epoch"], state["batches"])

    def check(self, state: dict[str, int]) -> None:
        """Refuse the state of a loader with other epochs or steps.

        Raises:
            UserError: naming both.
        """
        for name, value in self._shape().items():
            if state[name] != value:
                raise UserError(
                    f"the checkpoint was trained with {state[name]} {name.replace('_', ' ')}, now "
                    f"there are {value}; resume it with the batch size times processes and the "
                    "draws per epoch that it was started with, or train anew without --ckpt_path"
                )
