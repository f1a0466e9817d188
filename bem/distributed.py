"""One training run shared by the processes of a group: which rows are mine, and how sums are made.

Every process draws the same batch and computes the loss of its own rows, written so that the parts
add up to the loss of the whole batch. Adapter gradients are summed by torch's
DistributedDataParallel; under `fsdp` the frozen base's decoder layers are sharded by FSDP2 besides,
so a base is held once by the group. Knows neither who started the processes nor what is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bem.base import BaseModel
from bem.errors import InvalidInputError

Item = TypeVar("Item")
Strategy = Literal["ddp", "fsdp"]


class Share:
    """What one process of the group does. torch's default process group must be up."""

    def __init__(self, strategy: Strategy) -> None:
        if not dist.is_initialized():
            raise InvalidInputError(
                f"Strategy '{strategy}' needs torch.distributed: initialise a process group first."
            )
        self.strategy = strategy
        self.rank = dist.get_rank()
        self.world = dist.get_world_size()

    @property
    def leads(self) -> bool:
        """Whether this process speaks for the group."""
        return self.rank == 0

    def mine(self, items: Sequence[Item]) -> list[Item]:
        """This process's items of a batch that every process drew alike.

        Raises:
            InvalidInputError: fewer items than processes: somebody would have nothing to do.
        """
        if len(items) < self.world:
            raise InvalidInputError(
                f"A batch of {len(items)} cannot be shared by {self.world} processes; give at "
                f"least {self.world} rows, or fewer workers."
            )
        return list(items[self.rank :: self.world])

    def total(self, value: Tensor) -> Tensor:
        """The sum of a scalar over the group, without a gradient: the denominator of a mean."""
        summed = value.detach().clone()
        dist.all_reduce(summed)
        return summed

    def any(self, flag: bool) -> bool:
        """Whether any process says so; every process must ask."""
        agreed = torch.tensor(int(flag))
        dist.all_reduce(agreed, op=dist.ReduceOp.MAX)
        return bool(agreed.item())

    def broadcast(self, value: Any) -> Any:
        """The leader's value, in every process."""
        held = [value if self.leads else None]
        dist.broadcast_object_list(held, src=0)
        return held[0]

    def close(self) -> None:
        """Leaves the group: whoever still waits for this process learns of it."""
        if dist.is_initialized():
            dist.destroy_process_group()

    def step(
        self, step_loss: Callable[[int], Tensor], parameters: Sequence[nn.Parameter]
    ) -> Callable[[int], Tensor]:
        """`step_loss` whose backward leaves the gradients of the whole batch everywhere."""
        shared = DistributedDataParallel(_Step(step_loss, parameters), find_unused_parameters=True)

        def loss(step: int) -> Tensor:
            # DistributedDataParallel means over the group; the parts are to be summed.
            whole: Tensor = shared(step) * self.world
            return whole

        return loss

    def shard(self, base: BaseModel) -> None:
        """Under `fsdp`: each process keeps its part of every decoder layer from now on."""
        if self.strategy != "fsdp":
            return
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        base.digest  # noqa: B018 - read from whole weights, and kept
        mesh = init_device_mesh(base.device.type, (self.world,))
        for layer in base.layers:
            fully_shard(layer, mesh=mesh)


class _Step(nn.Module):
    """A closure as a module, so that its forward arms the reduction of these parameters."""

    def __init__(
        self, step_loss: Callable[[int], Tensor], parameters: Sequence[nn.Parameter]
    ) -> None:
        super().__init__()
        self._step_loss = step_loss
        self.trained = nn.ParameterList(parameters)

    def forward(self, step: int) -> Tensor:
        return self._step_loss(step)
