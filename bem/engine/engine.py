"""Continuous batching: answers join and leave between steps, each row with adapters of its own.

A step admits waiting prompts (one padded prefill, in which codes are read), then advances every row
by one token in one forward of the base: gathered factors and batched products for the adapters, one
KV cache for all. Rows pick tokens by their own rule. A `Branch` begins at the last prompt token: it
is read again with the branch acting, as `bem.safety` does it. One thread runs `step`; `submit` and
`Ticket.cancel` may come from any. It knows neither HTTP nor where adapters come from.

Legend: B rows, T positions, D hidden size, V vocabulary, M rows of one adapter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from bem.context import RoutingContext
from bem.data import pad_id_of
from bem.engine.admission import Line
from bem.engine.batch import Batch
from bem.engine.kv import Places
from bem.engine.limits import Limits, Load
from bem.engine.logprobs import infos_of
from bem.engine.request import Branch, Emit, Event, Request, Ticket
from bem.engine.row import Row
from bem.engine.sampling import RowSampler, pick
from bem.errors import InvalidInputError, QueueFullError
from bem.injection import AdapterHost
from bem.mixed.joining import RowState, leave, strengths


class Engine:
    """Answers of one host. It begins with no work; `step` says whether there is more."""

    def __init__(
        self,
        host: AdapterHost,
        limits: Limits | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.host = host
        self.limits = limits or Limits()
        longest = getattr(host.base.text_config, "max_position_embeddings", None)
        window = getattr(host.base.text_config, "sliding_window", None)
        bounds = [bound for bound in (longest, window) if bound]
        self.positions = min([self.limits.positions, *bounds])
        """Tokens of a prompt and its answer, here."""
        self._clock = clock
        self._line = Line(self.limits)
        self._rows: list[Row] = []
        self._places = Places(rows=self.limits.rows, columns=self.positions)
        self._batch: Batch | None = None
        """The rows as they decode; None where they have changed since the last step."""
        self._eos = _eos_ids(host)
        self._pad_id = pad_id_of(host.base.tokenizer)
        self._steps = self._prompt_tokens = self._answer_tokens = 0

    # --- from any thread ------------------------------------------------------------------------

    def submit(self, request: Request, emit: Emit) -> Ticket:
        """Ask for an answer; `emit` gets its events.

        Raises:
            QueueFullError: too many wait already.
            InvalidInputError: the prompt is empty, or it does not fit with its answer.
        """
        if not request.prompt_ids:
            raise InvalidInputError("The prompt has no token.")
        total = len(request.prompt_ids) + request.max_tokens
        if request.max_tokens < 1 or total > self.positions:
            raise InvalidInputError(
                f"The prompt has {len(request.prompt_ids)} tokens and max_tokens is "
                f"{request.max_tokens}: at least 1, together at most {self.positions}."
            )
        if self.waiting >= self.limits.queue:
            raise QueueFullError(f"{self.waiting} answers wait already.")
        ticket = Ticket(request, emit)
        self._line.join(ticket)
        return ticket

    @property
    def running(self) -> int:
        """Answers in progress."""
        return len(self._rows)

    @property
    def waiting(self) -> int:
        """Answers that wait for a row."""
        return len(self._line)

    @property
    def load(self) -> Load:
        """How busy it is."""
        return Load(
            running=self.running,
            waiting=self.waiting,
            steps=self._steps,
            prompt_tokens=self._prompt_tokens,
            answer_tokens=self._answer_tokens,
            kv_bytes=self._places.num_bytes,
        )

    # --- on the engine's thread -----------------------------------------------------------------

    @torch.inference_mode()
    def step(self) -> bool:
        """Admit, advance every row by one token, tell. True while there is more to do."""
        self._steps += 1
        self._drop()
        self._admit()
        if self._rows:
            self._guard(self._decode, list(self._rows))
        return bool(self._rows or self._line)

    def rest(self) -> None:
        """Nothing has come for a while: give the memory of keys and values back."""
        if not self._rows:
            self._places.clear()

    def _drop(self) -> None:
        """Answers that nobody waits for, and those whose time is over."""
        now = self._clock()
        for ticket in self._line.drop(now):
            ticket.emit(Event(finish=ticket.gone(now)))
        over = [(row, why) for row in self._rows if (why := row.ticket.gone(now)) is not None]
        for row, why in over:
            row.end(why)
        self._remove([row for row, _ in over])

    def _admit(self) -> None:
        chosen = self._by_adapter(self._line.call(len(self._rows)))
        if not chosen:
            return
        try:
            self._prefill(chosen)
        except Exception as error:  # noqa: BLE001 - told to those whose answer it was
            if len(chosen) == 1:
                chosen[0].emit(Event(finish="error", error=_told(error)))
                return
            for ticket in chosen:  # one bad row must not cost the others their answer
                try:
                    self._prefill([ticket])
                except Exception as own:  # noqa: BLE001 - as above
                    ticket.emit(Event(finish="error", error=_told(own)))

    def _by_adapter(self, tickets: Sequence[Ticket]) -> Sequence[Ticket]:
        """Rows of one adapter side by side: where all have as many, one product serves them."""
        place = {name: at for at, name in enumerate(self.host.adapters)}
        return sorted(tickets, key=lambda t: [place.get(name, -1) for name in t.request.strength])

    def _guard(self, act: Callable[[], None], rows: Sequence[Row]) -> None:
        """A fault ends the answers that it hit, not the engine."""
        try:
            act()
        except Exception as error:  # noqa: BLE001 - told to those whose answer it was
            for row in rows:
                row.end("error", _told(error))
            self._remove(rows)

    def _prefill(self, tickets: Sequence[Ticket]) -> None:
        requests = [ticket.request for ticket in tickets]
        states = [RowState(strength=dict(request.strength)) for request in requests]
        kv, hidden_BD, logits_BV, states = self._read(
            [request.prompt_ids for request in requests], requests, states
        )
        first = len(self._rows)
        self._places.put(first, kv)
        rows = []
        for at, ticket in enumerate(tickets):
            request = ticket.request
            row = Row(
                ticket=ticket,
                tokenizer=self.host.base.tokenizer,
                state=states[at],
                sampler=RowSampler(request.sampling, self.host.base.device),
                length=len(request.prompt_ids),
                token=request.prompt_ids[-1],
            )
            if request.branch is not None and request.branch.knob > 0:
                self._branch_off(row, request.branch, hidden_BD[at : at + 1], first + at)
            rows.append(row)
        self._carry()
        self._rows += rows
        self._prompt_tokens += sum(len(request.prompt_ids) for request in requests)
        ready = [at for at, row in enumerate(rows) if row.gate is None]
        if ready:
            told = [rows[at] for at in ready]
            self._guard(lambda: self._accept(told, logits_BV[ready]), told)

    def _read(
        self,
        prompts: Sequence[tuple[int, ...]],
        requests: Sequence[Request],
        states: Sequence[RowState],
    ) -> tuple[list[tuple[Tensor, Tensor]], Tensor, Tensor, list[RowState]]:
        """Prompts through base and adapters: keys and values, last hidden states (B, D), logits of
        the next token (B, V), and the rows with the codes that were read."""
        device = self.host.base.device
        width = max(len(ids) for ids in prompts)
        ids_BT = torch.tensor([[*ids, *[self._pad_id] * (width - len(ids))] for ids in prompts])
        length_B = torch.tensor([len(ids) for ids in prompts], device=device)
        mask_BT = torch.arange(width, device=device) < length_B[:, None]
        context = RoutingContext(
            rows=tuple(state.row for state in states),
            prefix_mask_BT=mask_BT,
            strength=strengths(states, device),
            sides=_sides(requests),
        )
        cache = Cache(layers=[DynamicLayer() for _ in self.host.base.layers])
        with self.host.routing(context):
            out = self.host.base.decoder(
                input_ids=ids_BT.to(device),
                attention_mask=mask_BT.long(),
                past_key_values=cache,
                position_ids=(mask_BT.cumsum(1) - 1).clamp_min(0),
                use_cache=True,
            )
        last_BD = out.last_hidden_state[torch.arange(len(prompts), device=device), length_B - 1]
        kv = [(layer.keys, layer.values) for layer in cache.layers]
        return kv, last_BD, self._head(last_BD), leave(context, states)

    def _branch_off(self, row: Row, branch: Branch, hidden_1D: Tensor, place: int) -> None:
        """The branch joins, and the last prompt token is read once more with it acting."""
        gate = 1.0 if branch.head is None else float(torch.sigmoid(branch.head(hidden_1D)))
        row.gate = branch.knob * gate
        row.length -= 1
        if row.state.streams and row.length:
            # What causal codes carry must not count the last token twice: they begin before it.
            request = row.ticket.request
            before = RowState(strength=row.state.strength)
            prompt = row.ticket.request.prompt_ids[:-1]
            kv, _, _, states = self._read([prompt], [request], [before])
            self._places.put(place, kv)
            row.state = RowState(
                strength=row.state.strength, codes=row.state.codes, streams=states[0].streams
            )
        row.state = row.state.with_adapter(branch.adapter, row.gate)

    def _decode(self) -> None:
        if self._batch is None:
            self._batch = Batch(self._rows, self._places, self.host.base.device)
        with self.host.routing(self._batch.context):
            out = self.host.base.decoder(**self._batch.next())
        for row in self._rows:
            row.length += 1
        self._accept(list(self._rows), self._head(out.last_hidden_state[:, -1]))

    def _accept(self, rows: Sequence[Row], logits_BV: Tensor) -> None:
        """The next token of each of these rows, told; rows that are done leave."""
        finite_B = torch.isfinite(logits_BV.sum(-1))
        finite = finite_B.tolist()
        if not all(finite):
            logits_BV = logits_BV.where(finite_B[:, None], 0.0)
        token_B = pick(logits_BV, [row.sampler for row in rows])
        tokens = token_B.tolist()
        infos = infos_of(logits_BV, [row.ticket.request.logprobs for row in rows], tokens)
        if self._batch is not None:
            self._batch.token_B1 = token_B[:, None]
        self._answer_tokens += sum(finite)
        now, over = self._clock(), []
        for row, token, fine, info in zip(rows, tokens, finite, infos, strict=True):
            if not fine:
                self._places.wipe(self._rows.index(row))
                row.end("error", "The model's logits are not finite for this input.")
                over.append(row)
            elif row.take(token, info, now=now, eos=token in self._eos) is not None:
                over.append(row)
        self._remove(over)

    def _remove(self, gone: Sequence[Row]) -> None:
        """These rows leave; the last rows move into their places."""
        if not gone:
            return
        self._carry()
        leaving = set(map(id, gone))
        for place in reversed(range(len(self._rows))):
            if id(self._rows[place]) not in leaving:
                continue
            last = len(self._rows) - 1
            if place != last:
                self._places.move(last, place, self._rows[last].length)
                self._rows[place] = self._rows[last]
            self._rows.pop()

    def _carry(self) -> None:
        """What causal codes carry goes from the context to the rows; the batch is no more."""
        if self._batch is not None:
            states = self._batch.leave([row.state for row in self._rows])
            for row, state in zip(self._rows, states, strict=True):
                row.state = state
        self._batch = None

    def _head(self, h_BD: Tensor) -> Tensor:
        if not self.host.base.head_is_plain:
            raise InvalidInputError(
                f"Base '{self.host.base.ref}' scales or caps its logits; the engine applies the "
                "plain output head only."
            )
        return self.host.base.head(h_BD)


def _sides(requests: Sequence[Request]) -> dict[str, Tensor]:
    """(B, F) by adapter, zeros at rows of others."""
    sides: dict[str, Tensor] = {}
    for index, request in enumerate(requests):
        for name, side_1F in request.sides.items():
            if name not in sides:
                sides[name] = side_1F.new_zeros(len(requests), side_1F.shape[1])
            sides[name][index] = side_1F[0]
    return sides


def _eos_ids(host: AdapterHost) -> frozenset[int]:
    """As `generate` ends."""
    given = host.model.generation_config.eos_token_id
    if given is None:
        given = host.base.tokenizer.eos_token_id
    ids = given if isinstance(given, list | tuple) else [] if given is None else [given]
    return frozenset(int(i) for i in ids)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
