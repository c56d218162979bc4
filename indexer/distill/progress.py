"""The line that a training shows of itself while it goes on."""

from tqdm import tqdm

from indexer.distill.checkpoints import Position


def open_bar(position: Position, *, epochs: int, steps_per_epoch: int, shown: bool) -> "tqdm[None]":
    """Open a bar over the steps of all epochs, so that the time left is that of the whole training.

    It is the longest time: a training may stop before its last epoch. Without a terminal nothing is shown.
    """
    return tqdm(
        initial=(position.epoch - 1) * steps_per_epoch + position.step,
        total=epochs * steps_per_epoch,
        bar_format="{desc}{percentage:3.0f}%|{bar:10}| {elapsed}<{remaining}{postfix}",
        # The mean of all steps: mining and validation, which come once an epoch, count in the time left.
        smoothing=0,
        disable=None if shown else True,
    )


def describe_position(position: Position, *, rate: float) -> str:
    """Return the epoch's losses so far, the last validation AUC, and how many examples a second are learnt."""
    means = position.mean_losses()
    terms = " ".join(f"{name.removeprefix('loss_')} {value:.4f}" for name, value in means.items() if name != "loss")
    auc = position.history[-1]["auc"]
    shown_auc = "-" if auc is None else f"{auc:.4f}"
    return f"loss {means['loss']:.4f} ({terms}), auc {shown_auc}, {rate:,.0f} examples/s"
