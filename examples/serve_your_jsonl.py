"""Adapts a model to your JSONL, saves it, loads it again and serves it.

A line is {"prompt": "...", "target": "..."}, with "hints" and "mode" where the config names some.
Run: `python examples/serve_your_jsonl.py data.jsonl`; then `curl -d "a prompt" localhost:8000`.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import torch

from bem import BEMConfig, BEMModel
from bem.model import LabelledExample
from missions.base_model import bundled_path


def adapt(data: Path, folder: Path, base: str = bundled_path(), steps: int = 250) -> BEMModel:
    """Trained on the file, saved in the folder, and loaded from there (any Hugging Face base)."""
    rows = [LabelledExample(**json.loads(line)) for line in data.read_text().splitlines()]
    with BEMModel(BEMConfig(base=base, adapters={"skill": {"kind": "generated"}})) as model:
        model.fit(rows, generator=torch.Generator().manual_seed(0), steps=steps)
        model.save_pretrained(folder)
    return BEMModel.from_pretrained(folder)


def server(model: BEMModel, port: int = 8000) -> HTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            prompt = self.rfile.read(int(self.headers["Content-Length"])).decode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(str(model.generate(prompt)).encode())

    return HTTPServer(("127.0.0.1", port), Handler)


if __name__ == "__main__":
    server(adapt(Path(sys.argv[1]), Path(sys.argv[1]).with_suffix(".bem"))).serve_forever()
