"""BEMs through PEFT's own API: `get_peft_model`, save and load, `set_adapter`, `disable_adapter`.

    from bem.peft_bridge import BemConfig, routing
    config = BemConfig(kind="generated", fields={"rank": 8}, task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, config)

Importing this module registers the method with PEFT. PEFT sees one tuner layer for the whole
model, the hub, which holds the adapters of an `AdapterHost`; the host does the rest. What is the
prompt: with `labels` the tokens whose label is -100, else all tokens of the first forward.
It relies on PEFT's inside, so it is pinned to a minor version; it knows no kind of adapter.

Legend: B rows, T positions, F side features.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import peft
import torch
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import PeftType, register_peft_method
from torch import Tensor, nn

from bem.base import BaseModel
from bem.context import RoutingContext
from bem.data import IGNORED
from bem.errors import InvalidInputError, RoutingError
from bem.injection import AdapterHost
from bem.registry import make_config

MINOR = "0.21"
"""The PEFT minor whose inside this was written for."""
_NOT_POSSIBLE = (
    "{what} is not possible for a BEM through PEFT: its delta depends on its context. On an "
    "AdapterHost, `bem.merging.merged` folds a static adapter in, and a RoutingContext gives each "
    "row its own adapters and strength."
)


@dataclass
class BemConfig(peft.PeftConfig):  # type: ignore[misc]
    """An adapter kind of `bem` and the fields of its config."""

    kind: str = field(default="generated", metadata={"help": "Name of the adapter in bem."})
    fields: dict[str, Any] = field(default_factory=dict, metadata={"help": "Its config's fields."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType.BEM
        config = make_config(self.kind, **self.fields)
        if isinstance(getattr(config, "experts", None), tuple):
            raise InvalidInputError(
                f"Adapter '{self.kind}' is made of other adapters of an AdapterHost; through "
                "PEFT each adapter stands alone."
            )


class BemHub(nn.Module, BaseTunerLayer):  # type: ignore[misc]
    """What PEFT takes for a layer: all adapters of one host, under the name of each."""

    adapter_layer_names: ClassVar[tuple[str, ...]] = ("bem_adapters",)
    other_param_names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, host: AdapterHost) -> None:
        super().__init__()
        self._host = (host,)  # a tuple: the host holds the model that holds this
        self.bem_adapters = host.adapters
        self.merged_adapters: list[str] = []
        self._active_adapter: list[str] = []
        self._disable_adapters = False

    @property
    def host(self) -> AdapterHost:
        """Where the adapters act."""
        return self._host[0]

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """These act from now on, unless disabled, and are trainable unless in inference mode."""
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        self._active_adapter = names
        self.host.train_only(*(() if inference_mode else names))
        if not self._disable_adapters:
            self.host.use(*names)

    def enable_adapters(self, enabled: bool) -> None:
        """All of them off, or the active ones on again."""
        self._disable_adapters = not enabled
        if enabled:
            self.set_adapter(self._active_adapter)
        else:
            self.host.freeze()
            self.host.use()

    def delete_adapter(self, adapter_name: str) -> None:
        """Forget it; where it was the active one, the first that is left becomes active."""
        self.host.remove(adapter_name)
        left = [name for name in self._active_adapter if name != adapter_name]
        self.set_adapter(left or list(self.bem_adapters)[:1])


class BemTuner(BaseTuner):  # type: ignore[misc]
    """PEFT's `base_model`: builds adapters on the host and tells each forward its context."""

    prefix = "bem_"
    tuner_layer_cls = BemHub
    target_module_mapping: ClassVar[dict[str, list[str]]] = {}

    def inject_adapter(self, model: Any, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Build the adapter of this name's config; the first one makes the host."""
        if kwargs.get("low_cpu_mem_usage"):
            raise InvalidInputError("low_cpu_mem_usage is not supported for a BEM through PEFT.")
        if not hasattr(model, "bemhub"):
            base = BaseModel(model, tokenizer=None, ref=getattr(model, "name_or_path", ""))
            # not under PEFT's prefix of the method, where it looks for no layers
            model.bemhub = BemHub(AdapterHost(base))
            base.decoder.register_forward_pre_hook(self._prefill, with_kwargs=True, prepend=True)
            self._given = RoutingContext()
            self._context: RoutingContext | None = None
            self._labels_BT: Tensor | None = None
        config = self.peft_config[adapter_name]
        draw = torch.Generator().manual_seed(int(torch.randint(2**62, ())))  # torch.manual_seed
        model.bemhub.host.add(
            adapter_name, make_config(config.kind, **config.fields), generator=draw
        )
        active = self.active_adapters if adapter_name not in self.active_adapters else adapter_name
        model.bemhub.set_adapter(active, inference_mode=config.inference_mode)

    def _create_and_replace(self, *args: Any, **kwargs: Any) -> None:
        raise InvalidInputError("PEFT asked for a single layer of a BEM, which has none.")

    @property
    def host(self) -> AdapterHost:
        """The host under the model."""
        hub: BemHub = self.model.bemhub
        return hub.host

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """PEFT calls this around each forward and each `generate`: one routing context."""
        if kwargs.get("adapter_names") is not None:
            raise InvalidInputError(_NOT_POSSIBLE.format(what="adapter_names"))
        given = self._given
        context = replace(given, codes=dict(given.codes), cache={}, streams={})
        self._labels_BT, previous = kwargs.get("labels"), self._context
        self._context = context
        try:
            with self.host.routing(context):
                yield
        finally:
            self._context, self._labels_BT = previous, None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's forward; in training with what the adapters add to the loss."""
        self._labels_BT = kwargs.get("labels")
        out = self.model(*args, **kwargs)
        if getattr(out, "loss", None) is not None and torch.is_grad_enabled():
            out.loss = out.loss + self.host.auxiliary_loss()
        return out

    def _prefill(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Before the host's own hook: at a first forward, say which tokens are the prompt."""
        context, past = self._context, kwargs.get("past_key_values")
        if context is None or not self.host.selected:
            return
        tokens = kwargs.get("input_ids", args[0] if args else None)
        tokens = kwargs["inputs_embeds"] if tokens is None else tokens
        if past is not None and past.get_seq_length() > 0:
            return
        if context.cache or context.streams:
            raise RoutingError(
                "A second first forward in one `generate`: without a KV cache the prompt cannot "
                "be told from what was generated. Leave use_cache on."
            )
        rows = tokens.shape[0]
        context.repeat_to(rows, tokens.device)
        if context.prefix_mask_BT is None:
            context.prefix_mask_BT = self._prompt(tokens, kwargs.get("attention_mask"))

    def _prompt(self, tokens: Tensor, mask_BT: Tensor | None) -> Tensor:
        prompt_BT = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        if mask_BT is not None and mask_BT.dim() == 2:
            prompt_BT = mask_BT.bool()
        if self._labels_BT is not None:
            prompt_BT = prompt_BT & (self._labels_BT == IGNORED)
            if not bool(prompt_BT.any(1).all()):
                raise RoutingError(
                    f"A row has no prompt: label its prompt {IGNORED}, or give prefix_mask_BT "
                    "by bem.peft_bridge.routing."
                )
        return prompt_BT

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: Any,
        config: Any,
        adapter_name: str,
        state_dict: Any,
        unwanted: Any = None,
        **_: Any,
    ) -> dict[str, Tensor]:
        mark = f"bemhub.bem_adapters.{adapter_name}."
        return {key: tensor for key, tensor in state_dict.items() if mark in key}

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        return key.replace(f"bem_adapters.{adapter_name}.", "bem_adapters.", 1)

    def merge_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Refused."""
        raise InvalidInputError(_NOT_POSSIBLE.format(what="Merging"))

    def merge_and_unload(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Refused."""
        raise InvalidInputError(_NOT_POSSIBLE.format(what="Merging"))

    def unload(self) -> nn.Module:
        """The model as it was, without adapters."""
        self.host.detach()
        del self.model.bemhub
        model: nn.Module = self.model
        return model


@contextmanager
def routing(model: Any, **fields: Any) -> Iterator[None]:
    """Inside, every forward and `generate` of the PEFT model has these fields of a RoutingContext.

    Rows (`side_BF`, `prefix_mask_BT`, strengths and codes) are those of the batch that the caller
    gives; `generate` repeats them for beams.
    """
    tuner = model.base_model
    if not isinstance(tuner, BemTuner):
        raise InvalidInputError(f"{type(model).__name__} holds no BEM: no routing for it.")
    previous, tuner._given = tuner._given, RoutingContext(**fields)
    try:
        yield
    finally:
        tuner._given = previous


def require_minor(version: str) -> None:
    """Raise unless `version` of PEFT is one that this bridge was written for."""
    if version.split(".")[:2] != MINOR.split("."):
        raise InvalidInputError(
            f"bem.peft_bridge is pinned to PEFT {MINOR}, installed is {version}: it uses PEFT's "
            "inside. Adapters on an AdapterHost need no PEFT."
        )


def _register() -> None:
    """PEFT's list of methods is a closed enum: add a member, then register as its own do."""
    if "BEM" in PeftType.__members__:
        return
    member = str.__new__(PeftType, "BEM")
    member._name_ = member._value_ = "BEM"
    PeftType._member_map_["BEM"] = PeftType._value2member_map_["BEM"] = member
    PeftType._member_names_.append("BEM")
    type.__setattr__(PeftType, "BEM", member)
    register_peft_method(name="bem", config_cls=BemConfig, model_cls=BemTuner, prefix="bem_")


require_minor(peft.__version__)
_register()
