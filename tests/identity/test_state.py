"""State, its count included, follows the parameter that it is put under, and replaced memory counts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import Parameter

from identity.lockstep import MOMENTS, OPTIONS, STATEFUL, Lockstep, Side

TWO = [{"params": [0, 1], "lr": 0.1}, {"params": [2], "lr": 0.05}]
FRESH = 4


def _pair(kind: str, case: str, backend: Any) -> Lockstep:
    pair = Lockstep(kind, TWO, backend, **OPTIONS[kind][case])
    pair.step(3)
    pair.step(2, only=[0, 2])  # counts differ
    return pair


def _tensors(state: Any) -> list[str]:
    """Keys of a state that hold moments."""
    return [key for key, value in dict(state).items() if value is not None and key != "step"]


def _replace(side: Side, old: int, new: int) -> None:
    """A parameter takes the place and the state of another."""
    p, q = side.params[old], side.params[new]
    side.state[q] = side.state.pop(p)
    for group in side.groups:
        for place, listed in enumerate(group["params"]):
            if listed is p:
                group["params"][place] = q


def _rekey(pair: Lockstep) -> None:
    new = pair.parameter((3,))
    pair.both(lambda side: _replace(side, 0, new))


def _densify(pair: Lockstep) -> None:
    """As Gaussian splatting adds and prunes points: the moments are replaced by larger ones, then moved."""
    shape = (7,)
    new, keys = pair.parameter(shape), MOMENTS[pair.kind]
    more = [pair.draw((4,)).square() for _ in range(3)]

    def act(side: Side) -> None:
        group = side.groups[0]
        stored = side.state.get(group["params"][0], None)
        for key, values in zip([*keys, *(k for k in _tensors(stored) if k not in keys)], more, strict=False):
            stored[key] = torch.cat((stored[key], side.on_device(values)), dim=0)
        del side.state[group["params"][0]]
        group["params"][0] = side.params[new]
        side.state[group["params"][0]] = stored

    pair.both(act)


def _prune(pair: Lockstep) -> None:
    new = pair.parameter((2,))

    def act(side: Side) -> None:
        group = side.groups[0]
        stored = side.state.get(group["params"][0], None)
        for key in _tensors(stored):
            stored[key] = stored[key][torch.tensor([True, False, True])]
        del side.state[group["params"][0]]
        group["params"][0] = side.params[new]
        side.state[side.params[new]] = stored

    pair.both(act)


def _move_to_the_other_group(pair: Lockstep) -> None:
    pair.both(lambda side: side.groups[1]["params"].append(side.groups[0]["params"].pop(0)))


def _take_out_and_put_back(pair: Lockstep) -> None:
    pair.both(lambda side: side.groups[0]["params"].pop(0))
    pair.step()
    pair.both(lambda side: side.groups[0]["params"].append(side.params[0]))


def _take_out_and_put_back_much_later(pair: Lockstep) -> None:
    pair.both(lambda side: side.groups[0].update(params=side.groups[0]["params"][1:]))
    pair.step(2)
    pair.both(lambda side: side.groups[1].update(params=[side.params[0], *side.groups[1]["params"]]))


def _remove_the_group_and_put_it_back(pair: Lockstep) -> None:
    kept: dict[bool, Any] = {}
    pair.both(lambda side: kept.update({side.is_ours: side.groups.pop(0)}))
    pair.step(2)
    pair.both(lambda side: side.groups.append(kept[side.is_ours]))


def _swap_states(pair: Lockstep) -> None:
    new = pair.parameter((3,))
    pair.both(lambda side: side.groups[0]["params"].append(side.params[new]))
    pair.step()

    def act(side: Side) -> None:
        p, q = side.params[0], side.params[new]
        side.state[p], side.state[q] = side.state[q], side.state[p]

    pair.both(act)


def _drop_and_put_back(pair: Lockstep) -> None:
    kept: dict[bool, Any] = {}
    pair.both(lambda side: kept.update({side.is_ours: side.state.pop(side.params[0])}))
    pair.step(2)
    pair.both(lambda side: side.state.update({side.params[0]: kept[side.is_ours]}))


def _copy_of_a_state(pair: Lockstep) -> None:
    def act(side: Side) -> None:
        side.state[side.params[0]] = {k: v.clone() for k, v in side.state[side.params[0]].items() if v is not None}

    pair.both(act)


def _drop_one(pair: Lockstep) -> None:
    pair.both(lambda side: side.state.pop(side.params[0]))


def _clear_one(pair: Lockstep) -> None:
    pair.both(lambda side: side.state[side.params[0]].clear())


def _clear_all(pair: Lockstep) -> None:
    pair.both(lambda side: side.state.clear())


def _new_state(pair: Lockstep) -> None:
    pair.both(lambda side: setattr(side.optimizer, "state", defaultdict(dict)))


def _new_state_with_the_old_entries(pair: Lockstep) -> None:
    def act(side: Side) -> None:
        side.optimizer.state = defaultdict(dict, dict(reversed(side.state.items())))

    pair.both(act)


def _params_reversed(pair: Lockstep) -> None:
    pair.both(lambda side: side.groups[0]["params"].reverse())


def _replaced_without_its_state(pair: Lockstep) -> None:
    new = pair.parameter((3,))
    pair.both(lambda side: side.groups[0]["params"].__setitem__(0, side.params[new]))
    pair.step(2)
    pair.both(lambda side: side.groups[0]["params"].append(side.params[0]))


MOVES: dict[str, Callable[[Lockstep], None]] = {
    "put under another parameter": _rekey,
    "densify": _densify,
    "prune": _prune,
    "move to the other group": _move_to_the_other_group,
    "take out and put back": _take_out_and_put_back,
    "take out and put back much later": _take_out_and_put_back_much_later,
    "remove the group and put it back": _remove_the_group_and_put_it_back,
    "swap states": _swap_states,
    "drop and put back": _drop_and_put_back,
    "a copy of a state": _copy_of_a_state,
    "drop one": _drop_one,
    "clear one": _clear_one,
    "clear all": _clear_all,
    "a new state": _new_state,
    "a new state with the old entries": _new_state_with_the_old_entries,
    "parameters reversed": _params_reversed,
    "replaced without its state": _replaced_without_its_state,
}


@pytest.mark.thin
@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize(("kind", "case"), STATEFUL)
def test_moves(kind: str, case: str, move: str, host_backend: str, mirrored: bool) -> None:
    pair = _pair(kind, case, host_backend)
    MOVES[move](pair)
    pair.check(move)
    pair.step(3)
    MOVES["parameters reversed"](pair)
    pair.step(2)


@pytest.mark.thin("triton", "reference")
@pytest.mark.parametrize("move", MOVES)
def test_moves_on_every_backend(move: str, backend: str) -> None:
    pair = _pair("AdamW", "amsgrad", backend)
    MOVES[move](pair)
    pair.step(2)


@pytest.mark.parametrize("again", [1, 3])
def test_many_densifications(again: int, host_backend: str, mirrored: bool) -> None:
    pair = _pair("Adam", "plain", host_backend)
    for turn in range(4 * again):
        size = 7 + turn
        new, more = pair.parameter((size,)), [pair.draw((size,)).square() for _ in range(2)]

        def act(side: Side, new: int = new, more: list[torch.Tensor] = more) -> None:
            group = side.groups[0]
            stored = side.state.pop(group["params"][0])
            for key, values in zip(("exp_avg", "exp_avg_sq"), more, strict=True):
                stored[key] = side.on_device(values)
            group["params"][0] = side.params[new]
            side.state[side.params[new]] = stored

        pair.both(act)
        pair.step(again)


# -- the memory of a state tensor --------------------------------------------------------------------------


def _set_data(state: Any, key: str, values: torch.Tensor) -> None:
    state[key].data = values


def _set_storage(state: Any, key: str, values: torch.Tensor) -> None:
    with torch.no_grad():
        state[key].set_(values)


def _assign(state: Any, key: str, values: torch.Tensor) -> None:
    state[key] = values


def _assign_a_view(state: Any, key: str, values: torch.Tensor) -> None:
    state[key] = torch.stack((values, values), dim=-1)[..., 0]


def _in_place(state: Any, key: str, values: torch.Tensor) -> None:
    state[key].copy_(values)


def _through_a_view(state: Any, key: str, values: torch.Tensor) -> None:
    state[key].detach().view(-1)[:] = values.view(-1)


def _off_load(state: Any, key: str, values: torch.Tensor) -> None:
    """Its memory is given away and comes back filled, at another address."""
    kept = state[key].data.clone()
    state[key].data = torch.empty(0, dtype=values.dtype, device=values.device)
    state[key].data = kept + values


def _resize(state: Any, key: str, values: torch.Tensor) -> None:
    state[key].untyped_storage().resize_(0)
    state[key].untyped_storage().resize_(values.numel() * values.element_size())
    state[key].copy_(values)


def _update(state: Any, key: str, values: torch.Tensor) -> None:
    state.update({key: values})


def _pop_and_assign(state: Any, key: str, values: torch.Tensor) -> None:
    state.pop(key)
    state[key] = values


REPLACEMENTS = {
    ".data": _set_data,
    "set_": _set_storage,
    "assigned": _assign,
    "a view with gaps": _assign_a_view,
    "in place": _in_place,
    "through a view": _through_a_view,
    "off-loaded": _off_load,
    "resized storage": _resize,
    "update": _update,
    "popped and assigned": _pop_and_assign,
}


@pytest.mark.thin
@pytest.mark.parametrize("how", REPLACEMENTS)
@pytest.mark.parametrize(("kind", "case"), STATEFUL)
def test_replaced_memory_counts(kind: str, case: str, how: str, host_backend: str, mirrored: bool) -> None:
    pair = _pair(kind, case, host_backend)
    for key in _tensors(pair.torchs.state[pair.torchs.params[1]]):
        values = pair.draw((2, 2)).square()
        pair.both(
            lambda side, key=key, values=values: REPLACEMENTS[how](
                side.state[side.params[1]], key, side.on_device(values)
            )
        )
        pair.check(key)
        pair.step(2)


@pytest.mark.thin("triton", "reference")
@pytest.mark.parametrize("how", REPLACEMENTS)
def test_replaced_memory_counts_on_every_backend(how: str, backend: str) -> None:
    pair = Lockstep("SGD", TWO, backend, momentum=0.9)
    pair.step()
    values = pair.draw((2, 2))
    pair.both(lambda side: REPLACEMENTS[how](side.state[side.params[1]], "momentum_buffer", side.on_device(values)))
    pair.step(2)


@pytest.mark.parametrize("how", ["before every step", "after every step"])
def test_state_that_lives_elsewhere_between_steps(how: str, host_backend: str, mirrored: bool) -> None:
    """Each step works on memory that it has not seen before."""
    pair = _pair("Adam", "plain", host_backend)

    def move(side: Side) -> None:
        for state in side.state.values():
            for key in _tensors(state):
                if how[0] == "b":
                    state[key].data = state[key].data.clone()
                else:
                    state[key] = state[key].clone()

    for _ in range(4):
        pair.both(move)
        pair.step()


# -- counts ------------------------------------------------------------------------------------------------

STEPS: dict[str, Callable[[Any], Any]] = {
    "fill_": lambda state: state["step"].fill_(7.0),
    "add_": lambda state: state["step"].add_(5),
    "+=": lambda state: state.__setitem__("step", state["step"] + 5),
    "a tensor": lambda state: state.__setitem__("step", torch.tensor(9.0)),
    ".data": lambda state: setattr(state["step"], "data", torch.tensor(11.0)),
    "zero": lambda state: state["step"].zero_(),
    "read": lambda state: float(state["step"]),
}


@pytest.mark.parametrize("how", STEPS)
def test_step_edited(how: str, host_backend: str, mirrored: bool) -> None:
    pair = _pair("Adam", "amsgrad", host_backend)
    pair.both(lambda side: STEPS[how](side.state[side.params[1]]))
    pair.check(how)
    pair.step(2)
    _params = pair.parameter((2, 2))
    pair.both(lambda side: STEPS[how](side.state[side.params[1]]))
    pair.both(lambda side: _replace(side, 1, _params))
    pair.check(f"{how}, and put under another parameter")
    pair.step(2)


def test_step_of_a_state_that_is_put_aside_is_its_own(host_backend: str, mirrored: bool) -> None:
    pair = _pair("Adam", "plain", host_backend)
    kept: dict[bool, Any] = {}
    pair.both(lambda side: kept.update({side.is_ours: side.state.pop(side.params[0])}))
    assert [float(kept[ours]["step"]) for ours in (True, False)] == [5.0, 5.0]
    pair.step(2)
    assert [float(kept[ours]["step"]) for ours in (True, False)] == [5.0, 5.0]
    pair.both(lambda side: kept[side.is_ours]["step"].add_(1))
    pair.both(lambda side: side.state.update({side.params[0]: kept[side.is_ours]}))
    pair.check()
    pair.step()


def test_a_state_in_the_hands_of_another_optimizer(host_backend: str, mirrored: bool) -> None:
    """Its parameter moves to another optimizer, and takes the state along."""
    one, two = (_pair("Adam", "plain", host_backend) for _ in range(2))
    for a, b in ((one.ours, two.ours), (one.torchs, two.torchs)):
        p = a.params[0]
        b.params.append(p)
        b.state[p] = a.state.pop(p)
        b.groups[0]["params"].append(a.groups[0]["params"].pop(0))
    two.check()
    two.step(2)
    one.step(only=[1, 2])


def test_dtype_and_shape_of_a_parameter_change_in_place(host_backend: str, mirrored: bool) -> None:
    """``p.data =`` with all of its state, as where points are pruned without new parameters."""
    pair = _pair("AdamW", "plain", host_backend)

    def act(side: Side) -> None:
        p = side.params[0]
        p.grad = None
        p.data = p.data[:2].clone()
        for key in ("exp_avg", "exp_avg_sq"):
            side.state[p][key] = side.state[p][key][:2].clone()

    pair.both(act)
    pair.step(3)


def test_frozen_parameters_may_have_any_dtype(backend: str) -> None:
    """Only a parameter with a gradient has to be of a dtype that can be updated."""
    frozen = [torch.zeros(3, dtype=t) for t in (torch.uint8, torch.int8, torch.bool, torch.float8_e4m3fn)]
    frozen = [Parameter(x, requires_grad=False) for x in frozen]
    pair = Lockstep("AdamW", [{"params": [0, 1]}], backend)
    for side in (pair.ours, pair.torchs):
        side.params += frozen
        side.optimizer.add_param_group({"params": [*frozen, side.params[2]], "lr": 0.01})
    for _ in range(2):
        for side in (pair.ours, pair.torchs):
            for name in range(3):
                side.params[name].grad = torch.ones_like(side.params[name])
            side.optimizer.step()
        for name in range(3):
            torch.testing.assert_close(pair.ours.params[name], pair.torchs.params[name], rtol=1e-12, atol=1e-12)
    type(pair.ours.optimizer)([*frozen, Parameter(torch.ones(2))], lr=0.1, backend=backend).step()
