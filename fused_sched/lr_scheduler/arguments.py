"""What the arguments of torch's schedulers must be, looked at before torch's constructors calculate with them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

# By their names, which mean the same in all of torch's classes.
ONE_NUMBER = frozenset({
    "T_0", "T_max", "T_mult", "cooldown", "div_factor", "end_factor", "eps", "eta_min", "factor", "final_div_factor",
    "gamma", "last_epoch", "patience", "power", "start_factor", "step_size", "step_size_down", "step_size_up",
    "threshold", "total_iters",
})  # fmt: skip
ONE_A_GROUP = frozenset({"base_lr", "base_momentum", "max_lr", "max_momentum", "min_lr", "swa_lr"})  # or one for all
EPOCHS = frozenset({"milestones"})
FUNCTION = frozenset({"lr_lambda"})  # or one a group
PLAIN_FUNCTION = frozenset({"scale_fn"})
OR_NONE = frozenset({"scale_fn", "step_size_down"})


def check_arguments(cls: type, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> None:
    """Refuse what is no number, no epochs or no function where a class of torch's needs one.

    Args:
        cls: the class whose constructor gets the arguments, without ``self``; of one that is not torch's, nothing is
            known.

    Raises:
        TypeError: says the argument, its value and what to give.
    """
    if not cls.__module__.startswith("torch."):
        return
    try:
        given = _signature(cls).bind(None, *arguments, **keywords).arguments
    except TypeError:
        return  # torch's constructor says which is missing, or too many
    for name, value in given.items():
        if value is None and name in OR_NONE:
            continue
        if name in ONE_NUMBER and not _is_number(value):
            raise TypeError(f"{name}={value!r} must be a number: give an int or a float")
        if name in ONE_A_GROUP and not _all_of(value, _is_number):
            raise TypeError(f"{name}={value!r} must be a number, or a list with one for each param group")
        if name in EPOCHS and not _are_epochs(value):
            raise TypeError(f"{name}={value!r} must be the epochs at which something changes: give a list of ints")
        if name in FUNCTION and not _all_of(value, callable):
            raise TypeError(
                f"{name}={value!r} must be a function, but is not: give one of the epoch that returns a factor, or a "
                "list with one for each param group"
            )
        if name in PLAIN_FUNCTION and not callable(value):
            raise TypeError(f"{name}={value!r} must be a function of one number, or None for the one that mode names")


@lru_cache
def _signature(cls: type) -> inspect.Signature:
    return inspect.signature(cls.__init__)  # type: ignore[misc]


# By types alone: isinstance() and hasattr() may run code of the user's, which torch does not run here.
def _is_number(value: Any) -> bool:
    kind = type(value)
    return not issubclass(kind, (str, bytes)) and (hasattr(kind, "__float__") or hasattr(kind, "__index__"))


def _all_of(value: Any, right: Callable[[Any], bool]) -> bool:
    """Of one value, or of those in a list or tuple, as torch takes them."""
    return all(map(right, value)) if issubclass(type(value), (list, tuple)) else right(value)


def _are_epochs(value: Any) -> bool:
    kind = type(value)
    if issubclass(kind, (str, bytes)) or not issubclass(kind, Iterable):
        return False
    return not issubclass(kind, Collection) or all(map(_is_number, value))  # an iterator is torch's to read
