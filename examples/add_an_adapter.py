"""A new kind of adapter in one folder of your own: used by name, trained, saved and loaded.

The folder is `examples/adapters/rescale` (config, layer, naive reference, README); nothing of the
library is edited. Run: `python examples/add_an_adapter.py` (about 10 CPU seconds).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from bem import BEMConfig, BEMModel, add_adapter_folder
from bem.model import LabelledExample
from missions.base_model import bundled_path
from missions.data.names import sample_names
from missions.data.splits import Split

add_adapter_folder(Path(__file__).parent / "adapters" / "rescale")


def repeat(rng: np.random.Generator, split: Split) -> LabelledExample:
    """Two names, to be said again."""
    names = " ".join(sample_names(rng, split, 2))
    return LabelledExample(prompt=f"again: {names}\n", target=names)


def main(steps: int = 60) -> float:
    """Exact match on unseen names, of the adapter as it comes back from disk."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    config = BEMConfig(base=bundled_path(), adapters={"mine": {"kind": "rescale"}})
    test = [repeat(rng, "test") for _ in range(100)]
    with tempfile.TemporaryDirectory() as folder:
        with BEMModel(config) as model:
            before = float(np.mean(model.exact_match(test)))
            rows = [repeat(rng, "train") for _ in range(16 * steps)]
            model.fit(rows, generator=torch.Generator().manual_seed(0), steps=steps, lr=2e-2)
            model.save_pretrained(Path(folder) / "saved")
        model = BEMModel.from_pretrained(Path(folder) / "saved")
    after = float(np.mean(model.exact_match(test)))
    size = model.host.num_trainable("mine")
    sys.stdout.write(f"{size:,d} parameters, exact match {before:.2f} before, {after:.2f} after\n")
    return after


if __name__ == "__main__":
    main()
