"""Adapters on one frozen base: which linears are wrapped, which adapters act, with what strength.

`AdapterHost` holds several named adapters on one base. `use` selects those that act (deltas add
up); a `RoutingContext` may override that for one forward. The base's own modules stay what they
are inside the wrappers, and `detach` puts them back. The host knows no kind of adapter.

Legend: B rows, T positions, I inputs, O outputs, D hidden size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from bem.base import BaseModel
from bem.context import RoutingContext
from bem.errors import InvalidInputError, RoutingError
from bem.forward.base_pass import read_base
from bem.forward.codes import prepare, set_codes
from bem.forward.streams import advance_stream
from bem.forward.wrapping import AdaptedLinear, set_module, token_mask
from bem.groups import parameter_groups
from bem.interfaces import Adapter, AdapterConfig, AdapterLayer
from bem.kernels import require_triton
from bem.mixed.forward import MixedForward
from bem.mixed.rows import batch_of, own_rows, split_of
from bem.mixed.stack import StackKeeper
from bem.registry import adapter_class

_NO_CONTEXT = RoutingContext()


class AdapterHost(nn.Module):
    """One base, many adapters. `with AdapterHost(base) as host:` detaches at the end."""

    def __init__(self, base: BaseModel) -> None:
        super().__init__()
        if base.hosted:
            raise InvalidInputError(
                f"Base '{base.ref}' already carries an AdapterHost: their adapters would act "
                "together. Detach it first."
            )
        base.hosted = True
        self.base = base
        self.model = base.model
        self.adapters = nn.ModuleDict()
        self._frozen = [(p, p.requires_grad) for p in base.model.parameters()]
        base.model.requires_grad_(False)
        self._detached = False
        self._wrapped: dict[str, AdaptedLinear] = {}
        self._selected: tuple[str, ...] = ()
        self._in_force: tuple[str, ...] = ()
        self._mixed: MixedForward | None = None
        self._stacks = StackKeeper()
        self._context: RoutingContext | None = None
        self._feature_hooks: dict[int, Any] = {}
        self._fused = False
        self._start_hook = base.decoder.register_forward_pre_hook(self._start, with_kwargs=True)

    # --- which adapters there are -------------------------------------------------------------

    def add(self, name: str, config: AdapterConfig, *, generator: torch.Generator) -> Adapter:
        """Build an adapter on this base. It is trainable; it acts once `use` names it."""
        sites = self.base.sites(config.targets)
        experts = {key: _as_adapter(value) for key, value in self.adapters.items()}
        adapter = adapter_class(config.kind).build(
            config, sites, self.base.hidden_size, generator=generator, experts=experts
        )
        return self.attach(name, adapter)

    def attach(self, name: str, adapter: Adapter) -> Adapter:
        """Put a built adapter on this base."""
        self._require_attached()
        if not name or "." in name or name in self.adapters:
            raise InvalidInputError(
                f"Adapter name '{name}' is empty, has a dot or is taken. "
                f"Taken: {', '.join(self.adapters) or 'none'}."
            )
        self.adapters[name] = adapter.to(self.base.device)
        adapter.state.fused = self._fused
        for site in adapter.sites:
            if site.name not in self._wrapped:
                self._wrapped[site.name] = self._wrap(site.name)
        adapter.bind([self._wrapped[site.name].base for site in adapter.sites])
        if adapter.feature_layer is not None:
            self._observe(adapter.feature_layer)
        return adapter

    def remove(self, name: str) -> None:
        """Forget an adapter; it stops acting, and linears that it alone changed are as before."""
        self[name]
        self._selected = tuple(n for n in self._selected if n != name)
        self._enforce(tuple(n for n in self._in_force if n != name))
        del self.adapters[name]
        self._stacks.clear()
        used = {site.name for other in self.adapters for site in self[other].sites}
        for path in [path for path in self._wrapped if path not in used]:
            set_module(self.model, path, self._wrapped.pop(path).base)

    def __getitem__(self, name: str) -> Adapter:
        if name not in self.adapters:
            known = ", ".join(self.adapters) or "none"
            raise InvalidInputError(f"Unknown adapter name '{name}'. On this base: {known}.")
        return _as_adapter(self.adapters[name])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.detach()

    def detach(self) -> BaseModel:
        """Take everything off: the base has its original modules and flags again.

        The adapters stay in the host (to be saved), but no longer act. A second call does nothing.
        """
        if self._detached:
            return self.base
        self._detached = True
        for path, wrapper in self._wrapped.items():
            set_module(self.model, path, wrapper.base)
        self._wrapped.clear()
        for hook in (self._start_hook, *self._feature_hooks.values()):
            hook.remove()
        self._feature_hooks.clear()
        for parameter, flag in self._frozen:
            parameter.requires_grad_(flag)
        self.base.hosted = False
        return self.base

    # --- which adapters act -------------------------------------------------------------------

    def use(self, *names: str | None) -> None:
        """Select the adapters that act from now on, in order. `use()` or `use(None)`: the base."""
        chosen = tuple(name for name in names if name is not None)
        for name in chosen:
            self[name]
        self._selected = chosen

    @property
    def selected(self) -> tuple[str, ...]:
        """What `use` selected."""
        return self._selected

    @contextmanager
    def routing(self, context: RoutingContext) -> Iterator[None]:
        """Every forward of the base inside belongs to `context` (`model.generate` too)."""
        previous = self._context
        self._context = context
        try:
            yield
        finally:
            self._context = previous

    def forward(
        self,
        input_ids_BT: Tensor,
        attention_mask_BT: Tensor | None = None,
        *,
        routing: RoutingContext | None = None,
        **kwargs: Any,
    ) -> Any:
        """The base's output with the acting adapters; `kwargs` go to the base."""
        self._require_attached()
        scope = contextlib.nullcontext() if routing is None else self.routing(routing)
        kwargs.setdefault("use_cache", "past_key_values" in kwargs)
        with scope:
            return self.model(input_ids=input_ids_BT, attention_mask=attention_mask_BT, **kwargs)

    def hidden_states(
        self,
        input_ids_BT: Tensor,
        attention_mask_BT: Tensor | None = None,
        *,
        routing: RoutingContext | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Last hidden states (B, T, D), normed, without the output head."""
        self._require_attached()
        scope = contextlib.nullcontext() if routing is None else self.routing(routing)
        kwargs.setdefault("use_cache", "past_key_values" in kwargs)
        with scope:
            out = self.base.decoder(
                input_ids=input_ids_BT, attention_mask=attention_mask_BT, **kwargs
            )
        h_BTD: Tensor = out.last_hidden_state
        return h_BTD

    def fuse(self, on: bool = True) -> None:
        """Whether adapters that have a Triton kernel use it (bem/kernels/README.md says which).

        Raises:
            InvalidInputError: there is no Triton, or no device that it runs on.
        """
        if on:
            require_triton(self.base.device)
        self._fused = on
        for name in self.adapters:
            self[name].state.fused = on

    # --- what is trained, what it costs ---------------------------------------------------------

    def freeze(self, *names: str) -> None:
        """These adapters (none named: all) take no gradient."""
        for name in names or tuple(self.adapters):
            self[name].requires_grad_(False)

    def train_only(self, *names: str, part: str = "all") -> None:
        """These adapters take gradients, the others do not. `part`: "all" or "controller"."""
        self.freeze()
        for name in names:
            for parameter in self._part(name, part):
                parameter.requires_grad_(True)

    def parameter_groups(
        self, lr: float, controller_lr_scale: float = 0.2, *, names: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """Optimizer groups of everything trainable (`names`: of these adapters): factors at `lr`,
        controllers lower."""
        return parameter_groups(self, lr, controller_lr_scale, names)

    def auxiliary_loss(self, names: Sequence[str] | None = None) -> Tensor:
        """What the adapters of the last forward add to the task's loss (balance, entropy, ...).

        `fit` adds it by itself to the groups of `parameter_groups`; other loops add it before
        the backward. It is 0 where nothing asks for one, and counts the last forward only.
        """
        acting = self._in_force if names is None else [n for n in self._in_force if n in names]
        terms = [self[name].auxiliary_loss() for name in acting]
        asked = [term for term in terms if term is not None]
        if not asked:
            return torch.zeros((), device=self.base.device)
        return torch.stack(asked).sum()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Forwards inside leave no mark: loss terms and codes of the one before are kept."""
        names, mixed = self._in_force, self._mixed
        kept = [(self[n].state, self[n].state.snapshot(), self[n].state.auxiliary) for n in names]
        try:
            yield
        finally:
            self._enforce(names, mixed)
            for state, snapshot, auxiliary in kept:
                state.restore(snapshot)
                state.auxiliary = auxiliary

    def after_step(self, step: int, names: Sequence[str] | None = None) -> None:
        """Tell the adapters that act that optimiser step `step` is done. `fit` does it by itself;
        other loops do it after the optimiser's step and before its gradients are cleared."""
        for name in self._in_force:
            if names is None or name in names:
                self[name].after_step(step)

    def num_trainable(self, *names: str) -> int:
        """Trainable parameters of these adapters (none named: all)."""
        return sum(self[name].num_parameters() for name in names or tuple(self.adapters))

    def forward_flops(self, *names: str, batch: int = 1, seq_len: int) -> int:
        """FLOPs of one forward: the base and these adapters (none named: those selected)."""
        adapters = [self[name] for name in names or self._selected]
        added = sum(a.forward_flops(batch=batch, seq_len=seq_len) for a in adapters)
        passes = sum(a.reads_base_output for a in adapters)
        first = self.base.forward_flops(batch=batch, seq_len=seq_len, head=False) if passes else 0
        return self.base.forward_flops(batch=batch, seq_len=seq_len) + added + passes * first

    def enable_gradient_checkpointing(self) -> None:
        """Checkpoint the base's layers so that recomputation sees this forward's routing."""
        self.model.activation_checkpointing_enable(
            {"use_reentrant": False, "context_fn": self._checkpoint_contexts}
        )
        self.train()

    # --- inside a forward -----------------------------------------------------------------------

    def _start(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if torch.is_grad_enabled():
            self._stacks.forget()
        context = self._context if self._context is not None else _NO_CONTEXT
        past = kwargs.get("past_key_values")
        decoding = past is not None and past.get_seq_length() > 0
        mask_BT = None if context.unpadded else token_mask(args, kwargs)
        if context.rows is not None:
            self._start_mixed(context, args, kwargs, mask_BT, decoding)
            return
        names = self._selected if context.adapters is None else context.adapters
        known = context is not _NO_CONTEXT
        acting = [
            n
            for n in names
            if prepare(n, self[n], context, kwargs, mask_BT, decoding=decoding, known=known)
        ]
        for name in acting:
            if self[name].reads_base_output:
                self._enforce(())
                decoder = self.base.decoder
                read_base(decoder, name, self[name], context, args, kwargs, known=known)
        self._enforce(tuple(acting))

    def _start_mixed(
        self,
        context: RoutingContext,
        args: Any,
        kwargs: dict[str, Any],
        mask_BT: Tensor | None,
        decoding: bool,
    ) -> None:
        """Each adapter begins with its own rows of the batch."""
        batch, tokens = batch_of(args, kwargs)
        split = split_of(context, batch, self.base.device, decoding=decoding)
        acting: dict[str, Adapter] = {}
        for name, part in split.parts.items():
            own_BT = None if mask_BT is None else part.of(mask_BT)
            own, adapter = part.context, self[name]
            if prepare(name, adapter, own, kwargs, own_BT, decoding=decoding, known=True):
                acting[name] = adapter
        for name, adapter in acting.items():
            if adapter.reads_base_output:
                self._enforce(())
                part = split.parts[name]
                own_args, own_kwargs = own_rows(part, args, kwargs, batch)
                read_base(
                    self.base.decoder,
                    name,
                    adapter,
                    part.context,
                    own_args,
                    own_kwargs,
                    known=True,
                )
        forward = MixedForward.at(
            split,
            acting,
            self._stacks,
            host=cast("Mapping[str, Adapter]", self.adapters),
            tokens=tokens,
            decoding=decoding,
        )
        self._enforce(tuple(acting), forward)

    def _observe(self, layer: int) -> None:
        if layer not in self._feature_hooks:
            self._feature_hooks[layer] = self.base.layers[layer].register_forward_pre_hook(
                lambda module, args, kwargs: self._encode(layer, args, kwargs), with_kwargs=True
            )

    def _encode(self, layer: int, args: Any, kwargs: dict[str, Any]) -> None:
        """At the input of decoder layer `layer`: codes of the adapters that read it there.

        Transformers checkpoints a layer's `forward`, so this hook runs once, outside of it.
        """
        whole_BTD: Tensor = (args[0] if args else kwargs["hidden_states"]).detach()
        if self._mixed is not None and self._context is not None:
            self._mixed.encode(layer, whole_BTD, self._context.prefix_mask_BT)
        for name in self._in_force:
            adapter = self[name]
            context, h_BTD = self._context, whole_BTD
            if adapter.feature_layer != layer or context is None:
                continue
            if self._mixed is not None:
                part = self._mixed.split.parts[name]
                context, h_BTD = part.context, part.of(h_BTD)
            if adapter.streams:
                advance_stream(name, adapter, context, h_BTD)
            if adapter.state.codes or not adapter.reads_prompt:
                continue
            mask_BT = context.prefix_mask_BT
            assert mask_BT is not None
            if mask_BT.shape != h_BTD.shape[:2]:
                raise RoutingError(
                    f"prefix_mask_BT has shape {tuple(mask_BT.shape)}, the input "
                    f"{tuple(h_BTD.shape[:2])}."
                )
            codes_BSR = adapter.encode(h_BTD, mask_BT, context.side_of(name))
            set_codes(name, adapter, context, codes_BSR)
        if self._mixed is not None:
            self._mixed.code()

    def _enforce(self, names: tuple[str, ...], mixed: MixedForward | None = None) -> None:
        if names == self._in_force and mixed is self._mixed:
            return
        self._in_force, self._mixed = names, mixed
        if mixed is not None:
            rows = mixed.layers()
            for path, wrapper in self._wrapped.items():
                wrapper.act(*rows.get(path, ((),)))
            return
        layers: dict[str, list[AdapterLayer]] = {path: [] for path in self._wrapped}
        for name in names:
            adapter = self[name]
            for site, layer in zip(adapter.sites, adapter.layers, strict=True):
                assert isinstance(layer, AdapterLayer)
                layers[site.name].append(layer)
        for path, wrapper in self._wrapped.items():
            wrapper.act(layers[path])

    def _checkpoint_contexts(self) -> tuple[Any, Any]:
        names, mixed = self._in_force, self._mixed
        snapshots = [self[name].state.snapshot() for name in names]

        @contextmanager
        def recomputation() -> Iterator[None]:
            later, later_mixed = self._in_force, self._mixed
            touched = dict.fromkeys(names + later)
            kept = [(name, self[name].state.snapshot()) for name in touched]
            self._enforce(names, mixed)
            for name, snapshot in zip(names, snapshots, strict=True):
                self[name].state.restore(snapshot)
            try:
                yield
            finally:
                self._enforce(later, later_mixed)
                for name, snapshot in kept:
                    self[name].state.restore(snapshot)

        return contextlib.nullcontext(), recomputation()

    # --- small parts ----------------------------------------------------------------------------

    def _require_attached(self) -> None:
        if self._detached:
            raise InvalidInputError("This AdapterHost is detached: its adapters no longer act.")

    def _wrap(self, path: str) -> AdaptedLinear:
        wrapper = AdaptedLinear(self.model.get_submodule(path))
        wrapper.train(self.model.training)
        set_module(self.model, path, wrapper)
        return wrapper

    def _part(self, name: str, part: str) -> Sequence[nn.Parameter]:
        if part == "all":
            return self[name].trainable()
        if part != "controller":
            raise InvalidInputError(f"Unknown part '{part}'. Known: all, controller.")
        controller = self[name].controller_parameters()
        if not controller:
            raise InvalidInputError(f"Adapter '{name}' has no controller.")
        return controller


def _as_adapter(module: nn.Module) -> Adapter:
    assert isinstance(module, Adapter)
    return module
