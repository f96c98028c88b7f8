"""What every fit of our modules needs of the Trainer and of the data."""

from __future__ import annotations

from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.trainer.states import TrainerFn

from common.errors import UserError


def check_fit(module: LightningModule, data: type[LightningDataModule]) -> None:
    """Refuse a Trainer or data under which a module would train something else.

    Args:
        module: about to be fitted.
        data: class of data module that its training is part of.

    Raises:
        UserError: if data come from elsewhere, or the draws of several processes would be drawn by
            Lightning's sampler.
    """
    trainer, name = module.trainer, type(module).__name__
    given = getattr(trainer, "datamodule", None)
    if not isinstance(given, data):
        what = "plain DataLoaders" if given is None else f"a {type(given).__name__}"
        raise UserError(
            f"{name} is trained with a {data.__name__}, which holds a part of the training, got "
            f"{what}; call trainer.fit(module, datamodule=...)"
        )
    if trainer.world_size > 1 and trainer._accelerator_connector.use_distributed_sampler:
        raise UserError(
            f"{name} draws its own samples on every process: give the Trainer "
            "use_distributed_sampler=False"
        )


def check_strategy(module: LightningModule) -> None:
    """Refuse to fit under strategies that share parameters out among processes.

    From ``configure_callbacks``, which comes before the data are prepared.

    Raises:
        UserError: naming it.
    """
    strategy, name = module.trainer.strategy, type(module).__name__
    fitting = module.trainer.state.fn == TrainerFn.FITTING
    if fitting and not isinstance(strategy, SingleDeviceStrategy | DDPStrategy):
        raise UserError(
            f"trainer.strategy is a {type(strategy).__name__}, under which {name} cannot be "
            "trained: its parameters must be whole in every process; use auto or ddp"
        )
