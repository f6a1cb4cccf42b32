"""What DeepSpeed ZeRO keeps of a model: flat fp32 buffers, of which each rank holds its part, addressed by weight.

DeepSpeed's own checkpoints are pickles, one per rank, that only the same number of ranks at the same stage reads back;
its converter to other numbers needs a second pass over the disk. By weight the state is that of any other sharding,
so it is saved in the one form of ``checkpoint_io`` and read back on any number of ranks, at any stage, or without
DeepSpeed. Where a weight lies follows from two of DeepSpeed's tables, one for stages 1 and 2, one for stage 3.

DeepSpeed has three classes of such buffers: one for stages 1 and 2, one for stage 3, and ``BF16_Optimizer``, which it
takes at stage 1 where gradients of a bf16 model are summed in fp32 without offloading. They name the same things
differently, and a class that is not among them is refused.

A frozen weight has no master: what is saved of it is what the forward uses, which under bf16 DeepSpeed has rounded.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.base.errors import UserError
from trainer.engines.adam_scales import AdamPart
from trainer.engines.checkpoint_io import MOMENTS, adam_state, read

READ_AT_ONCE = 1 << 28  # numbers of whole weights in host memory during a read: 3 GiB with their moments


@dataclass(frozen=True, kw_only=True)
class ShardPlace:
    """Where this rank keeps its part of a weight: ``count`` numbers from ``start`` of the flattened weight on, at
    ``offset`` of the buffer ``flat``. ``count`` is 0 where it holds none.
    """

    flat: Tensor
    offset: int
    start: int
    count: int


@dataclass(frozen=True, kw_only=True)
class Names:
    """What a class of DeepSpeed's calls the masters (flat fp32 buffers, one per group of weights), the groups (none
    where a weight's place says its group), and the function whose answer becomes the norm of the gradients.
    """

    masters: str
    groups: str | None
    norm: str


NAMES = {
    "DeepSpeedZeroOptimizer": Names(
        masters="single_partition_of_fp32_groups", groups="bit16_groups", norm="scaled_global_norm"
    ),
    "BF16_Optimizer": Names(masters="fp32_groups_flat_partition", groups="bf16_groups", norm="get_grads_for_norm"),
    "DeepSpeedZeroOptimizer_Stage3": Names(
        masters="fp32_partitioned_groups_flat", groups=None, norm="_get_norm_groups"
    ),
}


class ZeroState:
    """Masters and moments of a DeepSpeed engine around ``model``, stages 1 to 3, and how to put them back.

    ``UserError`` where DeepSpeed keeps them in a class that is not known here.
    """

    def __init__(self, engine: Any, model: torch.nn.Module) -> None:
        self._zero, self._adam = engine.optimizer, engine.optimizer.optimizer
        self._names = _names_of(self._zero)
        self._is_stage_3 = engine.zero_optimization_stage() == 3
        self._module, self._device = model, engine.device
        self._rank, self._world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self._parameters: dict[str, Any] = dict(self._module.named_parameters())  # tied weights once
        self._group_of = {
            id(parameter): number
            for number, group in enumerate(getattr(self._zero, self._names.groups) if self._names.groups else [])
            for parameter in group
        }

    def tensors(self) -> list[Tensor]:
        """Everything a step changes on this rank, but for the weights the forward uses: ``publish`` makes those."""
        return [tensor for flat in self._flats() for tensor in (flat.detach(), *adam_state(self._adam, flat).values())]

    def adam_parts(self) -> list[AdamPart]:
        """This rank's part of what Adam keeps; the numbers that fill up a buffer have no gradient."""
        group = self._adam.param_groups[0]  # the rules are the same in all, but for weight decay
        return [AdamPart.of(adam_state(self._adam, flat), group) for flat in self._flats()]

    def publish(self) -> None:
        """(all) Make the weights that the forward uses from the masters, as after a step."""
        if not self._is_stage_3:
            self._zero.update_lp_params()
            return
        self._zero._partition_all_parameters()
        for number in range(len(self._flats())):
            self._zero._reassign_or_swap_out_partitioned_parameters(number)
        if self._zero.persistent_parameters:  # small ones stay whole on every rank
            self._zero.persistent_parameters[0].all_gather(self._zero.persistent_parameters)
        self._zero.invalidate_secondary_tensor()

    @contextmanager
    def gradients_unsound(self) -> Iterator[None]:
        """Inside, DeepSpeed finds the norm of the gradients to be no number, and does what it does then."""
        no_number = torch.tensor(torch.nan, device=self._device)
        answers = {
            "scaled_global_norm": no_number,
            "_get_norm_groups": [no_number],
            "get_grads_for_norm": ([no_number], {}),
        }
        setattr(self._zero, self._names.norm, lambda: answers[self._names.norm])
        try:
            yield
        finally:
            delattr(self._zero, self._names.norm)

    def begin_with(self, weights: Mapping[str, Tensor]) -> None:
        """(all) Set the masters to whole weights, by name; frozen weights have none."""
        for name, whole in weights.items():
            if not self._parameters[name].requires_grad:
                continue
            place = self._place(self._parameters[name])
            self._copy_part(place, place.flat, whole)
        self.publish()

    def partitioned(self) -> dict[str, Tensor]:
        """(all) Weights and moments whole, by name as in ``checkpoint_io``, in host memory; each on one rank, so that
        all write about as much.
        """
        load, mine = [0] * self._world_size, dict[str, Tensor]()
        for name, parameter in self._parameters.items():
            owner = load.index(min(load))
            load[owner] += _size(parameter)
            for key, flat in self._own_parts(parameter).items():
                whole = self._whole(parameter, flat, owner=owner)
                if whole is not None:
                    mine[f"{key}.{name}"] = whole
            if self._rank == owner and parameter.requires_grad:
                step = adam_state(self._adam, self._place(parameter).flat)["step"]
                mine[f"step.{name}"] = step.detach().cpu().clone()
        if self._rank == 0:
            mine |= {f"model.{name}": buffer.cpu().clone() for name, buffer in self._buffers().items()}
        return mine

    def whole_weights(self) -> dict[str, Tensor]:
        """(all) On the main rank the weights and persistent buffers by name, in host memory; elsewhere nothing."""
        weights = dict[str, Tensor]()
        for name, parameter in self._parameters.items():
            whole = self._whole(parameter, self._place(parameter).flat, owner=0)
            if whole is not None:
                weights[name] = whole
        buffers = self._buffers() if self._rank == 0 else {}
        return weights | {name: buffer.cpu().clone() for name, buffer in buffers.items()}

    def fill(self, folder: Path) -> None:
        """(all) Load what any engine has saved."""
        buffers = self._buffers()
        read(folder, {f"model.{name}": buffer for name, buffer in buffers.items()})
        for names in _chunks({name: _size(parameter) for name, parameter in self._parameters.items()}):
            whole: dict[str, Tensor] = {}
            for name in names:
                parameter = self._parameters[name]
                whole |= {f"{key}.{name}": torch.empty(_shape(parameter)) for key in self._own_parts(parameter)}
                if parameter.requires_grad:
                    whole[f"step.{name}"] = torch.empty(())
            read(folder, whole)
            for name in names:
                self._load(name, whole)
        self.publish()

    def _load(self, name: str, whole: Mapping[str, Tensor]) -> None:
        """Set this rank's part of a weight and its moments from what was read."""
        parameter = self._parameters[name]
        place = self._place(parameter)
        if parameter.requires_grad:
            adam_state(self._adam, place.flat)["step"].copy_(whole[f"step.{name}"])  # of all weights alike
        for key, flat in self._own_parts(parameter).items():
            self._copy_part(place, flat, whole[f"{key}.{name}"])

    def _own_parts(self, parameter: Any) -> dict[str, Tensor]:
        """The buffers in which this rank keeps its part of a weight, and of its moments where it is trained."""
        flat = self._place(parameter).flat
        if not parameter.requires_grad:
            return {"model": flat}
        moments = adam_state(self._adam, flat)
        return {"model": flat, **{moment: moments[moment] for moment in MOMENTS}}

    def _flats(self) -> list[Tensor]:
        flats: list[Tensor] = getattr(self._zero, self._names.masters)
        return flats

    def _buffers(self) -> dict[str, Tensor]:
        saved_names = self._module.state_dict().keys()
        return {name: buffer for name, buffer in self._module.named_buffers() if name in saved_names}

    def _place(self, parameter: Any) -> ShardPlace:
        if not parameter.requires_grad:
            return self._place_of_frozen(parameter)
        if self._is_stage_3:  # every rank has an equal part, the last ones filled up with zeros
            number, offset, count = self._zero.grad_position[self._zero.get_param_id(parameter)]
            start = min(self._rank * count, parameter.ds_numel)
            flat = self._flats()[number]
            return ShardPlace(flat=flat, offset=offset, start=start, count=min(count, parameter.ds_numel - start))
        flat = self._flats()[self._group_of[id(parameter)]]
        if parameter._hp_mapping is None:  # all of it lies on other ranks
            return ShardPlace(flat=flat, offset=0, start=0, count=0)
        in_flat, in_weight = parameter._hp_mapping.hp_fragment_address, parameter._hp_mapping.lp_fragment_address
        return ShardPlace(flat=flat, offset=in_flat.start, start=in_weight.start, count=in_flat.numel)

    def _place_of_frozen(self, parameter: Any) -> ShardPlace:
        """Stage 3 spreads a frozen weight too, outside of the flat buffers; below it every rank has all of it."""
        if not self._is_stage_3:
            return ShardPlace(flat=parameter.detach().view(-1), offset=0, start=0, count=parameter.numel())
        count = parameter.ds_tensor.ds_numel
        start = min(self._rank * count, parameter.ds_numel)
        return ShardPlace(
            flat=parameter.ds_tensor.detach(), offset=0, start=start, count=min(count, parameter.ds_numel - start)
        )

    def _copy_part(self, place: ShardPlace, flat: Tensor, whole: Tensor) -> None:
        """Copy this rank's part of a whole tensor to its place in a buffer like ``flat``."""
        part = whole.flatten().narrow(0, place.start, place.count)
        flat.detach().narrow(0, place.offset, place.count).copy_(part)

    def _whole(self, parameter: Any, flat: Tensor, *, owner: int) -> Tensor | None:
        """(all) The whole of what the ranks keep of a weight in buffers like ``flat``, on its owner's CPU."""
        place = self._place(parameter)
        if not parameter.requires_grad and not self._is_stage_3:
            own = flat.detach().float().reshape(_shape(parameter))
            return own.cpu().clone() if self._rank == owner else None
        whole = torch.zeros(_size(parameter), dtype=torch.float32, device=self._device)
        part = flat.detach().narrow(0, place.offset, place.count)
        whole.narrow(0, place.start, place.count).copy_(part)
        torch.distributed.reduce(whole, dst=owner)  # zeros but in one place: the sum is exact
        return whole.reshape(_shape(parameter)).cpu() if self._rank == owner else None


def _names_of(zero: Any) -> Names:
    """By the class of DeepSpeed's optimizer."""
    name = type(zero).__name__
    if name not in NAMES:
        raise UserError(
            "DeepSpeed keeps weights and optimizer state in a class that checkpoints cannot be read from",
            got=name,
            remedy="Use ZeRO stage 2 or 3 as in launch/deepspeed",
        )
    return NAMES[name]


def _shape(parameter: Any) -> torch.Size:
    """Of the whole weight: under stage 3 the parameter itself is empty between uses."""
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape


def _size(parameter: Any) -> int:
    return prod(_shape(parameter))


def _chunks(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Names in order, in lists of at most ``READ_AT_ONCE`` numbers (or of one weight)."""
    chunk, total = list[str](), 0
    for name, size in sizes.items():
        if chunk and total + size > READ_AT_ONCE:
            yield chunk
            chunk, total = [], 0
        chunk.append(name)
        total += size
    if chunk:
        yield chunk
