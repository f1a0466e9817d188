"""`BEMModel`: a frozen base, adapters by name, and what one does with them.

    model = BEMModel(BEMConfig(base="folder or hub id", adapters={"skill": {"kind": "generated"}}))
    model.generate(["a prompt"], context_hints="formal", adaptation_strength=0.5)

It puts parts together that stand elsewhere: `AdapterHost`, `bem.training`, `bem.routing.trace`,
`bem.checkpoint`. It knows no kind of adapter.

Legend: B rows, T positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from bem.base import BaseModel, load_base
from bem.checkpoint import load_adapter, read_manifest
from bem.context import RoutingContext
from bem.data import Batch, Encoded, pad, pad_id_of
from bem.errors import CheckpointError, InvalidInputError
from bem.evaluate import Routing, teacher_forced_exact_match
from bem.injection import AdapterHost
from bem.interfaces import Adapter
from bem.model.analysis import RoutingAnalysis, analyse
from bem.model.config import AdapterFields, BEMConfig, require_name
from bem.model.generation import generate_texts
from bem.model.hints import HintTable, require_known
from bem.model.inputs import GivenStrength, Hints, as_texts, hints_by_row, modes_by_row, strengths
from bem.model.saving import read_folder, read_labels, save_folder
from bem.model.training import LabelledExample, Part, acting, encode_labelled, fit_labelled
from bem.training import TrainResult


class BEMModel:
    """One base with its adapters. `with BEMModel(config) as model:` detaches at the end."""

    def __init__(
        self,
        config: BEMConfig,
        *,
        base: BaseModel | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        """Load the base and build the adapters; new ones leave the base's output as it is.

        Args:
            base: a base that is loaded already (a quantised one, say), instead of `config.base`.
            device: where the base is loaded; a given `base` stays where it is.

        Raises:
            BaseModelError: the base cannot be loaded.
            InvalidInputError: an adapter does not fit the base, or hints and modes were named and
                no adapter reads them.
        """
        if base is None:
            base = load_base(config.base, device=device, dtype=getattr(torch, config.dtype))
        self._given = config
        self._draw = torch.Generator().manual_seed(config.seed)
        self.base = base
        self.host = AdapterHost(base)
        self.tables: dict[str, HintTable] = {}
        """The embeddings of each adapter that reads hints and modes."""
        try:
            for name in config.adapters:
                self._build(name, config)
            if config.side_size and config.adapters and not self.tables:
                raise InvalidInputError(
                    "hints and modes need an adapter whose controller reads side signals, such "
                    "as 'generated' with code 'sequence'; none of these does."
                )
            self.use(*(config.adapters if config.active is None else config.active))
        except InvalidInputError:
            self.host.detach()
            raise

    # --- what there is --------------------------------------------------------------------------

    @property
    def config(self) -> BEMConfig:
        """The config of what stands now: adapters that were loaded are in it, others are not."""
        names = tuple(self.host.adapters)
        adapters: dict[str, AdapterFields] = {
            name: {"kind": self.host[name].kind, **self.host[name].config.model_dump(mode="json")}
            for name in names
        }
        active = None if self.active == names else self.active
        return self._given.model_copy(update={"adapters": adapters, "active": active})

    @property
    def active(self) -> tuple[str, ...]:
        """Names of the adapters that act."""
        return self.host.selected

    @property
    def known_hints(self) -> tuple[str, ...]:
        """Hints that an acting adapter knows."""
        return tuple(dict.fromkeys(h for t in self._tables(self.active) for h in t.hints))

    @property
    def known_modes(self) -> tuple[str, ...]:
        """Modes that an acting adapter knows."""
        return tuple(dict.fromkeys(m for t in self._tables(self.active) for m in t.modes))

    def use(self, *names: str) -> None:
        """These adapters act from now on, in order; none: the base alone."""
        self.host.use(*names)

    def add_adapter(self, name: str, kind: str, **fields: Any) -> Adapter:
        """Build one more adapter; it acts once `use` names it."""
        made = self._given.model_copy(update={"adapters": {name: {"kind": kind, **fields}}})
        return self._build(name, made)

    def load_adapter(self, name: str, folder: str | Path) -> Adapter:
        """Put a saved adapter on the base that is loaded, beside the others; it acts at once.

        Args:
            folder: of one adapter, as under `adapters/` of a saved model.

        Raises:
            CheckpointError: it does not verify, its kind is unknown, or it belongs to another base.
            InvalidInputError: the name is taken.
        """
        require_name(name)
        folder = Path(folder)
        table = read_labels(folder, read_manifest(folder))
        adapter = load_adapter(self.host, name, folder)
        if table is not None:
            self.tables[name] = table.to(self.base.device)
        self.use(*self.active, name)
        return adapter

    def unload_adapter(self, name: str) -> None:
        """Take an adapter off and forget it, its embeddings and the linears that it wrapped."""
        self.host.remove(name)
        self.tables.pop(name, None)

    def detach(self) -> BaseModel:
        """Give the base its original modules back; the model is of no use afterwards."""
        return self.host.detach()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.detach()

    # --- what it does ---------------------------------------------------------------------------

    def generate(
        self,
        inputs: str | Sequence[str],
        *,
        context_hints: Hints | Sequence[Hints] = None,
        adaptation_strength: GivenStrength = 1.0,
        behavioral_mode: str | Sequence[str | None] | None = None,
        generator: torch.Generator | None = None,
        **kwargs: Any,
    ) -> str | list[str]:
        """Continuations of the inputs, without the inputs.

        Args:
            inputs: one prompt or a list of them; each is the context that codes are read from.
            context_hints: for one prompt its hints (a name or several). For a list one name for
                all, or a list with None, a name or several for each prompt.
            adaptation_strength: 0 is the base exactly, 1 the adapters as trained; a number, one a
                prompt, or either by adapter name.
            behavioral_mode: one name for all, or a list with a name or None for each prompt.
            generator: draws, where `do_sample` is on.
            kwargs: of Hugging Face's `generate` (max_new_tokens, 64 where nothing is said,
                num_beams, do_sample, temperature, num_return_sequences, ...).

        Returns:
            A text for one prompt, a list for a list. With num_return_sequences > 1 always a list,
            the sequences of a prompt beside each other.

        Raises:
            InvalidInputError: an unknown hint or mode (the known are listed), a list of the wrong
                length, a strength that is not finite, or sampling without a generator.
        """
        texts, single = as_texts(inputs)
        context = self._context(texts, single, context_hints, adaptation_strength, behavioral_mode)
        made = generate_texts(self.host, texts, context, generator=generator, **kwargs)
        return made[0] if single and len(made) == 1 else made

    def analyze_routing(
        self,
        inputs: str | Sequence[str],
        *,
        context_hints: Hints | Sequence[Hints] = None,
        behavioral_mode: str | Sequence[str | None] | None = None,
    ) -> RoutingAnalysis:
        """What routing does with these inputs: a record by adapter and layer, each adapter acting
        alone at strength 1. `print` shows a table, `as_dict` is JSON.

        Raises:
            InvalidInputError: as `generate`.
        """
        texts, single = as_texts(inputs)
        rows = [
            Encoded(prompt_ids=tuple(ids), target_ids=(), id=str(i), cluster=str(i))
            for i, ids in enumerate(self.base.tokenizer(texts)["input_ids"])
        ]
        pad_id = pad_id_of(self.base.tokenizer)
        batch = pad(rows, pad_id=pad_id, device=self.base.device, prompt_only=True)

        def context() -> RoutingContext:
            made = self._context(texts, single, context_hints, 1.0, behavioral_mode)
            made.prefix_mask_BT = batch.prefix_mask_BT
            return made

        with torch.no_grad():
            return analyse(self.host, self.active, batch, texts, context)

    def routing_for(
        self, examples: Sequence[LabelledExample], names: Sequence[str] | None = None
    ) -> Routing:
        """For the functions of `bem.evaluate`: the context of a batch of these examples.

        Raises:
            InvalidInputError: an example has a hint or mode that none of the adapters `names`
                (None: those that act) knows.
        """
        chosen = self.active if names is None else tuple(names)
        hints, modes = [e.hints for e in examples], [e.mode for e in examples]
        require_known(self._tables(chosen), hints, modes)

        def routing(batch: Batch, index: Sequence[int]) -> RoutingContext:
            sides = self._sides(chosen, [hints[i] for i in index], [modes[i] for i in index])
            return batch.routing(sides=sides)

        return acting(routing, chosen)

    def fit(
        self,
        examples: Sequence[LabelledExample],
        *,
        generator: torch.Generator,
        steps: int,
        adapters: Sequence[str] | None = None,
        part: Part = "all",
        batch_size: int = 16,
        lr: float = 5e-3,
        controller_lr_scale: float = 1.0,
        bf16: bool = False,
        log: Callable[[int, dict[str, float]], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> TrainResult:
        """Train adapters, and the embeddings of hints and modes, on labelled contexts.

        Args:
            examples: a row's hints and mode say in what context its target was written; rows
                without labels train the adapters for inputs without.
            generator: draws the batches, without replacement.
            adapters: which of them act and learn; None: those that act.
            part: "all", "controller" (what decides on the code, and the embeddings), or "labels"
                (the embeddings alone: new meanings for an adapter that stays as it is).

        Raises:
            InvalidInputError: no example, or an unknown hint or mode.
            NonFiniteLossError: the loss or its gradient is NaN or infinite.
        """
        names = self.active if adapters is None else tuple(adapters)
        rows = encode_labelled(examples, self.base.tokenizer)
        return fit_labelled(
            self.host,
            names,
            self._tables(names),
            rows,
            self.routing_for(examples, names),
            steps=steps,
            batch_size=batch_size,
            lr=lr,
            controller_lr_scale=controller_lr_scale,
            part=part,
            generator=generator,
            bf16=bf16,
            log=log,
            should_stop=should_stop,
        )

    def exact_match(self, examples: Sequence[LabelledExample]) -> list[bool]:
        """For each example: would greedy decoding give just its target and end there?"""
        rows = encode_labelled(examples, self.base.tokenizer)
        return teacher_forced_exact_match(self.host, rows, routing=self.routing_for(examples))

    # --- saved and loaded -----------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path) -> None:
        """Write adapters, embeddings and config (not the base) to a folder without a model.

        Raises:
            CheckpointError: the folder holds one, or a weight is not finite.
        """
        save_folder(Path(folder), self.config, self.host, self.tables)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        base: str | Path | BaseModel | None = None,
        device: str | torch.device = "cpu",
    ) -> Self:
        """A saved model, every file verified first.

        Args:
            base: where the base is now, or the loaded base itself; None: where it was.

        Raises:
            CheckpointError: a file is missing or changed, or the base is another one.
            BaseModelError: the base cannot be loaded.
        """
        folder = Path(folder)
        config, manifest = read_folder(folder)
        ref = config.base if base is None or isinstance(base, BaseModel) else str(base)
        empty = config.model_copy(update={"base": ref, "adapters": {}, "active": ()})
        model = cls(empty, base=base if isinstance(base, BaseModel) else None, device=device)
        try:
            if model.base.digest != manifest.base_digest:
                raise CheckpointError(
                    f"'{folder}' belongs to another base: digest {manifest.base_digest[:12]}, "
                    f"'{model.base.ref}' has {model.base.digest[:12]}."
                )
            for name in config.adapters:
                model.load_adapter(name, folder / "adapters" / name)
            model.use(*(config.adapters if config.active is None else config.active))
        except InvalidInputError:
            model.detach()
            raise
        return model

    # --- inside ---------------------------------------------------------------------------------

    def _build(self, name: str, config: BEMConfig) -> Adapter:
        require_name(name)
        made = config.adapter_config(name)
        adapter = self.host.add(name, made, generator=self._draw)
        if made.reads_side and config.side_size:
            size = made.model_dump()["side_size"]
            if size != config.side_size:
                self.host.remove(name)
                raise InvalidInputError(
                    f"Adapter '{name}': side_size is {size}; with hints or modes it is twice "
                    f"embedding_size, {config.side_size}. Leave it out."
                )
            table = HintTable(
                config.hints, config.modes, config.embedding_size, generator=self._draw
            )
            self.tables[name] = table.to(self.base.device)
        return adapter

    def _tables(self, names: Sequence[str]) -> list[HintTable]:
        for name in names:
            self.host[name]
        return [self.tables[name] for name in names if name in self.tables]

    def _sides(
        self,
        names: Sequence[str],
        hints: Sequence[Sequence[str]],
        modes: Sequence[str | None],
    ) -> dict[str, Tensor]:
        return {n: self.tables[n].side(hints, modes) for n in names if n in self.tables}

    def _context(
        self,
        texts: Sequence[str],
        single: bool,
        context_hints: Hints | Sequence[Hints],
        strength: GivenStrength,
        mode: str | Sequence[str | None] | None,
    ) -> RoutingContext:
        hints = hints_by_row(context_hints, len(texts), single=single)
        modes = modes_by_row(mode, len(texts))
        require_known(self._tables(self.active), hints, modes)
        return RoutingContext(
            sides=self._sides(self.active, hints, modes),
            strength=strengths(strength, len(texts), self.host),
        )
