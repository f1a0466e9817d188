"""A LoRA whose delta reads and writes outside the spans of another, frozen adapter.

    dW = (alpha / rank) (I - Q_out Q_out^T) U V (I - Q_in Q_in^T)

Q_in is an orthonormal basis of the rows of the other adapter's down factor, Q_out of the columns
of its up factor, so dW sends whatever that adapter reads to zero and adds nothing in the
directions that it writes. Projection is part of the forward pass, so it holds after every
optimizer step (O-LoRA, 2310.14152, penalises the overlap instead and avoids input spans only).

Legend: B rows, T positions, I inputs, O outputs, R rank, Q columns of the avoided basis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from bem.adapters.orthogonal.config import OrthogonalConfig
from bem.errors import InvalidInputError
from bem.interfaces import Adapter, AdapterConfig, AdapterLayer, AdapterState, Factors, Site
from bem.layers.lowrank import add_up, down, uniform_down, zero_up

_RELATIVE_TOLERANCE = 1e-6


def orthonormal_basis(columns_DN: Tensor, width: int) -> Tensor:
    """An orthonormal basis (D, width) of the span of the columns, zero columns where it is smaller.

    Raises:
        InvalidInputError: the span has more than `width` dimensions.
    """
    left_DK, values_K, _ = torch.linalg.svd(columns_DN.double(), full_matrices=False)
    largest = float(values_K.max()) if values_K.numel() else 0.0
    kept = int((values_K > _RELATIVE_TOLERANCE * largest).sum()) if largest > 0 else 0
    if kept > width:
        raise InvalidInputError(f"basis_rank is {width}; the avoided span has {kept} dimensions.")
    basis_DQ = torch.zeros(columns_DN.shape[0], width, dtype=torch.float64)
    basis_DQ[:, :kept] = left_DK[:, :kept]
    return basis_DQ.to(columns_DN.dtype)


class OrthogonalLayer(AdapterLayer):
    """The two free factors of one site and the two bases that they are kept away from."""

    in_IQ: Tensor
    out_OQ: Tensor

    def __init__(
        self,
        config: OrthogonalConfig,
        site: Site,
        state: AdapterState,
        generator: torch.Generator,
        avoided: Factors | None,
    ) -> None:
        """`avoided` is None when a checkpoint is about to fill the bases."""
        super().__init__()
        self.down_RI = uniform_down(config.rank, site.in_features, generator)
        self.up_OR = zero_up(site.out_features, config.rank)
        self.scale = config.alpha / config.rank
        self.state = state
        in_IQ = torch.zeros(site.in_features, config.basis_rank)
        out_OQ = torch.zeros(site.out_features, config.basis_rank)
        if avoided is not None:
            down_NI, up_ON = (factor.detach().cpu().float() for factor in avoided)
            in_IQ = orthonormal_basis(down_NI.T, config.basis_rank)
            out_OQ = orthonormal_basis(up_ON, config.basis_rank)
        self._kept: tuple[tuple[Any, ...], Factors] | None = None
        self.register_buffer("in_IQ", in_IQ)
        self.register_buffer("out_OQ", out_OQ)

    def projected(self) -> Factors:
        """(down_RI, up_OR) outside the avoided spans, without the scale.

        Frozen factors are projected once and kept until one of them changes, or is trained: torch
        does not count a fused optimizer's step as a change.
        """
        if self.down_RI.requires_grad or self.up_OR.requires_grad:
            self._kept = None
            return self._project()
        sources = (self.down_RI, self.up_OR, self.in_IQ, self.out_OQ)
        state = tuple((id(t), t._version, t.device, t.dtype) for t in sources)
        if self._kept is None or self._kept[0] != state:
            with torch.inference_mode(False), torch.no_grad():
                self._kept = (state, self._project())
        return self._kept[1]

    def _project(self) -> Factors:
        down_RI = self.down_RI - (self.down_RI @ self.in_IQ) @ self.in_IQ.T
        up_OR = self.up_OR - self.out_OQ @ (self.out_OQ.T @ self.up_OR)
        return down_RI, up_OR

    def forward(self, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
        state = self.state
        down_RI, up_OR = self.projected()
        return add_up(
            y_BTO,
            down(x_BTI, down_RI),
            up_OR,
            self.scale * state.strength,
            state.strength_rows,
        )


class OrthogonalAdapter(Adapter):
    """One orthogonal delta a site."""

    kind: ClassVar[str] = "orthogonal"
    config_class: ClassVar[type[AdapterConfig]] = OrthogonalConfig

    @classmethod
    def build(
        cls,
        config: OrthogonalConfig,
        sites: Sequence[Site],
        hidden_size: int,
        *,
        generator: torch.Generator,
        experts: Mapping[str, Adapter] | None,
    ) -> Self:
        avoided = None if experts is None else experts.get(config.avoid)
        if experts is not None and avoided is None:
            raise InvalidInputError(
                f"Adapter 'orthogonal': avoid names '{config.avoid}'. "
                f"On this base: {', '.join(experts) or 'none'}."
            )
        index = {} if avoided is None else {s.name: i for i, s in enumerate(avoided.sites)}
        adapter = cls(config, sites, hidden_size)
        for site in sites:
            at = index.get(site.name)
            factors = None if avoided is None or at is None else avoided.factors(at)
            adapter.layers.append(OrthogonalLayer(config, site, adapter.state, generator, factors))
        return adapter

    @classmethod
    def examples(cls) -> Sequence[OrthogonalConfig]:
        return (
            OrthogonalConfig(rank=3, alpha=6.0, avoid="expert_0", basis_rank=2),
            OrthogonalConfig(rank=2, avoid="expert_1", basis_rank=3, targets="attention"),
        )

    @classmethod
    def count_parameters(
        cls, config: OrthogonalConfig, sites: Sequence[Site], hidden_size: int
    ) -> int:
        return config.rank * sum(site.in_features + site.out_features for site in sites)

    def forward_flops(self, *, batch: int, seq_len: int) -> int:
        config = self.config
        assert isinstance(config, OrthogonalConfig)
        weights = self.count_parameters(config, self.sites, self.hidden_size)
        # While they are trained, both factors are projected once a forward, whatever the batch.
        trained = any(p.requires_grad for p in self.parameters())
        projection = 4 * config.basis_rank * weights if trained else 0
        return 2 * batch * seq_len * weights + projection

    def factors(self, index: int) -> Factors:
        layer = self.layers[index]
        assert isinstance(layer, OrthogonalLayer)
        down_RI, up_OR = layer.projected()
        return down_RI.detach(), up_OR.detach() * layer.scale

    def scale_delta(self, index: int, by: float) -> None:
        layer = self.layers[index]
        assert isinstance(layer, OrthogonalLayer)
        with torch.no_grad():
            layer.up_OR.mul_(by)
