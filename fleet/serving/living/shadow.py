"""A copy of base and adapter that learns from feedback and is never served.

Mission B's learner, canary suite and settings, on the files that the model was exported with. Every
call comes from one thread. It knows no registry, no queue and no server.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

from bem.base import BaseModel as FrozenBase
from bem.data import Encoded
from bem.data import encode as encode_examples
from bem.errors import InvalidInputError
from bem.evaluate import teacher_forced_exact_match
from bem.model import BEMModel
from bem.online import Action, CanaryReport, decide
from missions.living_model.online import ONLINE, read_online
from missions.living_model.stream import CanarySuite
from missions.living_model.updaters import gradient_updater

STATE = "state.json"
"""In `online/` of a model that a learner made."""


class State(BaseModel):
    """state.json: what learning has come to, so that a restart measures by the same start."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    origin: str
    """The model that the first learner of this ancestry began from."""
    start_score: float
    """Its canary score: every later run is compared with it, not with its parent's."""
    feedback: int = 0
    """Learned from, over all ancestors."""
    updates: int = 0


class Shadow:
    """The learning copy of one registered model."""

    def __init__(self, model_id: str, folder: Path, load: Callable[[], FrozenBase]) -> None:
        """
        Args:
            model_id: of the model in `folder`.
            load: a base that nobody else uses.

        Raises:
            ValueError, OSError: the folder or its `online/` cannot be used.
        """
        self._folder = folder
        self._model = BEMModel.from_pretrained(folder, base=load())
        names = list(self._model.config.adapters)
        if len(names) != 1:
            raise InvalidInputError(f"{model_id}: {len(names)} adapters; a living model has one.")
        host = self._model.host
        self.settings = (online := read_online(folder / ONLINE)).settings
        self._updater = gradient_updater(
            host,
            names[0],
            self.settings.update,
            self.settings.learner,
            encode_examples(online.initial, host.base.tokenizer),
            generator=torch.Generator().manual_seed(self.settings.seed),
        )
        self._suite = CanarySuite(host, online.canary)
        path = folder / ONLINE / STATE
        if path.is_file():
            self.state = State.model_validate_json(path.read_bytes())
        else:
            self.state = State(origin=model_id, start_score=self._suite.run().score)
        self._good = self.state

    def learn(self, items: Sequence[Encoded]) -> list[bool]:
        """Answers a batch, then takes one update from it; which answers were right before it."""
        hits = teacher_forced_exact_match(self._model.host, items)
        self._updater.observe(items)
        self._updater.update()
        self.state = self.state.model_copy(
            update={
                "feedback": self.state.feedback + len(items),
                "updates": self.state.updates + 1,
            }
        )
        return hits

    def run_canary(self) -> tuple[CanaryReport, Action]:
        """Asks the suite; says what should follow, and does nothing yet."""
        report = self._suite.run()
        return report, decide(report, self.state.start_score, self.settings.canary)

    def commit(self) -> None:
        """The present state, whose canary was run last, is the last good one."""
        self._updater.commit()
        self._suite.commit()
        self._good = self.state

    def rollback(self) -> None:
        """Back to the last good state."""
        self._updater.rollback()
        self.state = self._good

    def save(self, folder: Path) -> None:
        """Writes model/ as mission B exports it, with the state that was reached."""
        self._model.save_pretrained(folder)
        shutil.copytree(self._folder / ONLINE, folder / ONLINE, dirs_exist_ok=True)
        path = folder / ONLINE / STATE
        path.write_text(f"{self.state.model_dump_json(indent=1)}\n", encoding="utf-8")

    def close(self) -> None:
        """Takes the adapter off the base."""
        self._model.detach()
